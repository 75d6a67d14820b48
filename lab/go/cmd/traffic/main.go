// Copyright: (c) 2026, the servicemesh.migration authors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// Command traffic sends requests at a constant rate to several URLs and says, per bucket of time, what came back.
//
//	traffic -rate 200 -duration 60s -target http=http://echo.lab.test/ -target https=https://echo.lab.test/ \
//	    -resolve echo.lab.test=198.51.100.10 -ca ca.pem -new-ratio 0.5 -out run.jsonl
//
// Output is one JSON object a line: buckets, then a line with "summary": true (see the package traffic
// for the fields). SIGTERM, SIGINT and the stop file end a run early, with its summary. Exit status: 0 when
// the run was made, whatever came back; 2 for wrong use; 1 when the output could not be written.
package main

import (
	"context"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"servicemesh.migration/lab/go/internal/traffic"
)

type pairs [][2]string

func (p *pairs) String() string { return "" }
func (p *pairs) Set(text string) error {
	key, value, found := strings.Cut(text, "=")
	if !found || key == "" || value == "" {
		return fmt.Errorf("%q: wants NAME=VALUE", text)
	}
	*p = append(*p, [2]string{key, value})
	return nil
}

func main() {
	var targets, resolve, streams pairs
	rate := flag.Float64("rate", 200, "arrivals per second over all targets")
	duration := flag.Duration("duration", 0, "length of the run (needed, at most 1h)")
	newRatio := flag.Float64("new-ratio", 0.5, "part of the requests on a new connection, 0 to 1")
	timeout := flag.Duration("timeout", 5*time.Second, "for one whole answer")
	bucket := flag.Duration("bucket", time.Second, "length of a bucket, for example 100ms")
	inFlight := flag.Int64("in-flight", 2000, "bound of requests under way")
	ca := flag.String("ca", "", "PEM file of the certificate authority for https")
	outFile := flag.String("out", "-", "file for the lines, - is standard output")
	stopFile := flag.String("stop-file", "", "end when this file exists")
	failures := flag.Bool("failures", true, "also write a line for each failed request (at most 1000)")
	chance := flag.Bool("chance", false, "arrivals at moments by chance, at the same rate")
	flag.Var(&targets, "target", "NAME=URL, may be repeated")
	flag.Var(&streams, "stream", "NAME=URL of an answer that goes on, of which one is open all the time; may be repeated")
	flag.Var(&resolve, "resolve", "HOST=IP, may be repeated")
	flag.Parse()

	hosts := map[string]string{}
	for _, pair := range resolve {
		hosts[pair[0]] = pair[1]
	}
	var roots *x509.CertPool
	if *ca != "" {
		pem, err := os.ReadFile(*ca)
		roots = x509.NewCertPool()
		if err != nil || !roots.AppendCertsFromPEM(pem) {
			wrong(fmt.Errorf("no certificate in %s (%v)", *ca, err))
		}
	}
	c := traffic.Config{
		Rate: *rate, Duration: *duration, NewRatio: *newRatio, Timeout: *timeout, Bucket: *bucket,
		InFlight: *inFlight, StopFile: *stopFile, Failures: *failures, Chance: *chance,
	}
	made := func(given pairs) (found []*traffic.Target) {
		for _, pair := range given {
			t, err := traffic.NewTarget(pair[0], pair[1], hosts, roots)
			if err != nil {
				wrong(err)
			}
			found = append(found, t)
		}
		return found
	}
	c.Targets, c.Streams = made(targets), made(streams)
	if flag.NArg() > 0 {
		wrong(fmt.Errorf("unknown argument %q", flag.Arg(0)))
	}
	if err := c.Check(); err != nil {
		wrong(err)
	}
	var out io.Writer = os.Stdout
	if *outFile != "-" {
		file, err := os.Create(*outFile)
		if err != nil {
			wrong(err)
		}
		defer file.Close()
		out = file
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if _, err := traffic.Run(ctx, c, out); err != nil {
		fmt.Fprintln(os.Stderr, "traffic:", err)
		os.Exit(1)
	}
}

func wrong(err error) {
	fmt.Fprintln(os.Stderr, "traffic:", err)
	os.Exit(2)
}
