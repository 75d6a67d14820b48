// Copyright: (c) 2026, the servicemesh.migration authors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package traffic

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// Five streams one after the other: one that its server ends, one that is cut, one that falls silent, one that is refused, and
// one that goes on until the run ends.
func TestStreams(t *testing.T) {
	var calls atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/stream" {
			return
		}
		number := calls.Add(1)
		w.Header().Set("x-lab-pod", fmt.Sprint("pod-", number))
		if number == 4 {
			w.WriteHeader(503)
			return
		}
		out := http.NewResponseController(w)
		for range 3 {
			fmt.Fprintln(w, "line")
			_ = out.Flush()
		}
		switch number {
		case 1:
			fmt.Fprintln(w, "end")
		case 2:
			panic(http.ErrAbortHandler)
		case 3:
			<-r.Context().Done()
		default:
			for r.Context().Err() == nil {
				time.Sleep(20 * time.Millisecond)
				fmt.Fprintln(w, "line")
				_ = out.Flush()
			}
		}
	}))
	defer server.Close()
	stream, err := NewTarget("s", server.URL+"/stream", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	report, err := Run(context.Background(), Config{Rate: 10, Duration: 1500 * time.Millisecond, Targets: []*Target{target(t, server.URL)},
		Streams: []*Target{stream}, Timeout: 300 * time.Millisecond, Bucket: 100 * time.Millisecond, InFlight: 50}, &out)
	if err != nil || report.Failed != 0 || report.Streams == nil {
		t.Fatalf("%v %+v", err, report)
	}
	var found []string
	for _, text := range bytes.Split(out.Bytes(), []byte("\n")) {
		var line StreamLine
		if json.Unmarshal(text, &line) == nil && line.Stream != "" {
			found = append(found, line.How)
			if line.How == StreamDrained && (line.Pod != "pod-1" || line.Lines != 4 || line.Opened == 0) {
				t.Errorf("%+v", line)
			}
		}
	}
	if got, want := fmt.Sprint(found), "[drained eof timeout status 503 open]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if s := report.Streams; s.Opened != 4 || s.Ended[StreamDrained] != 1 || s.GapMS < 290 {
		t.Errorf("%+v", s)
	}
}
