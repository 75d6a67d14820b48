module servicemesh.migration/lab/go

go 1.24
