// Copyright: (c) 2026, the servicemesh.migration authors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package traffic

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func target(t *testing.T, url string) *Target {
	t.Helper()
	one, err := NewTarget("t", url, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(one.closeAll)
	return one
}

func soon() time.Time { return time.Now().Add(2 * time.Second) }

// peer is a TCP server whose behaviour per connection is the test's.
func peer(t *testing.T, serve func(n int64, c *net.TCPConn)) (string, *atomic.Int64) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	var connections atomic.Int64
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(connections.Add(1), c.(*net.TCPConn))
		}
	}()
	return "http://" + listener.Addr().String() + "/", &connections
}

func answerOne(c net.Conn) bool {
	request, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return false
	}
	_, _ = io.Copy(io.Discard, request.Body)
	_, err = io.WriteString(c, "HTTP/1.1 200 OK\r\nServer: peer\r\nX-Lab-Version: v9\r\nContent-Length: 2\r\n\r\nok")
	return err == nil
}

func TestKeptConnectionsAreReusedAndNewOnesAreNot(t *testing.T) {
	url, connections := peer(t, func(_ int64, c *net.TCPConn) {
		for answerOne(c) {
		}
		c.Close()
	})
	one := target(t, url)
	for i := range 3 {
		if o := one.get(int64(i), false, soon()); o.Status != 200 || o.Gateway != "peer" || o.Version != "v9" {
			t.Fatalf("%+v", o)
		}
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("kept: %d connections, want 1", n)
	}
	for i := range 3 {
		if o := one.get(int64(i), true, soon()); o.Status != 200 {
			t.Fatalf("%+v", o)
		}
	}
	if n := connections.Load(); n != 4 {
		t.Errorf("new: %d connections, want 4", n)
	}
}

func TestClosedIdleIsSeenBeforeWriting(t *testing.T) {
	closed := make(chan bool)
	url, connections := peer(t, func(n int64, c *net.TCPConn) {
		answerOne(c)
		if n == 1 {
			<-closed
			c.Close()
			closed <- true
			return
		}
		answerOne(c)
	})
	one := target(t, url)
	one.get(0, false, soon())
	closed <- true
	<-closed
	time.Sleep(5 * time.Millisecond) // the FIN crosses loopback
	o := one.get(1, false, soon())
	if o.Status != 200 || o.IdleClosed != 1 || o.StaleRetry != 0 || connections.Load() != 2 {
		t.Errorf("%+v, %d connections", o, connections.Load())
	}
}

func TestCloseThatCrossesTheRequestIsAStaleRetry(t *testing.T) {
	kill, dead := make(chan bool), make(chan bool)
	url, connections := peer(t, func(n int64, c *net.TCPConn) {
		answerOne(c)
		if n == 1 {
			<-kill
			c.Close()
			dead <- true
		}
	})
	one := target(t, url)
	one.get(0, false, soon())
	one.before = func() { kill <- true; <-dead; time.Sleep(5 * time.Millisecond); one.before = nil }
	o := one.get(1, false, soon())
	if o.Status != 200 || o.StaleRetry != 1 || o.Kind != "" || connections.Load() != 2 {
		t.Errorf("%+v, %d connections", o, connections.Load())
	}
}

// A server that took the request, or part of it, and then went away has lost it: never retried.
func TestTakenRequestIsNeverRetried(t *testing.T) {
	for name, c := range map[string]struct {
		want string
		then func(*net.TCPConn)
	}{
		"closed after reading it":   {KindEOF, func(c *net.TCPConn) { _, _ = http.ReadRequest(bufio.NewReader(c)); c.Close() }},
		"closed without reading it": {KindReset, func(c *net.TCPConn) { time.Sleep(20 * time.Millisecond); c.Close() }},
		"half an answer": {KindEOF, func(c *net.TCPConn) {
			_, _ = http.ReadRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf")
			c.Close()
		}},
		"not HTTP": {KindProtocol, func(c *net.TCPConn) {
			_, _ = http.ReadRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, "good day\r\n\r\n")
			c.Close()
		}},
		"silence": {KindTimeout, func(c *net.TCPConn) { time.Sleep(time.Second); c.Close() }},
	} {
		t.Run(name, func(t *testing.T) {
			url, connections := peer(t, func(_ int64, tcp *net.TCPConn) {
				if answerOne(tcp) {
					c.then(tcp)
				}
			})
			one := target(t, url)
			one.get(0, false, soon())
			o := one.get(1, false, time.Now().Add(200*time.Millisecond))
			if o.Kind != c.want || o.Status != 0 || o.StaleRetry != 0 || connections.Load() != 1 {
				t.Errorf("%+v, %d connections, want kind %s", o, connections.Load(), c.want)
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + listener.Addr().String() + "/"
	listener.Close()
	if o := target(t, url).get(0, true, soon()); o.Kind != KindDial || !o.failed() {
		t.Errorf("%+v", o)
	}
}

func TestTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	address := server.Listener.Addr().(*net.TCPAddr)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	url := fmt.Sprintf("https://example.com:%d/", address.Port) // a name in httptest's certificate
	hosts := map[string]string{"example.com": address.IP.String()}
	good, err := NewTarget("good", url, hosts, roots)
	if err != nil {
		t.Fatal(err)
	}
	bad, err := NewTarget("bad", url, hosts, x509.NewCertPool())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if o := good.get(int64(i), false, soon()); o.Status != 204 || o.IdleClosed+o.StaleRetry != 0 {
			t.Errorf("%+v", o)
		}
	}
	good.closeAll()
	if o := bad.get(0, false, soon()); o.Kind != KindTLS {
		t.Errorf("%+v", o)
	}
}

func run(t *testing.T, ctx context.Context, c Config) (Report, []map[string]any) {
	t.Helper()
	var out bytes.Buffer
	report, err := Run(ctx, c, &out)
	if err != nil {
		t.Fatal(err)
	}
	var lines []map[string]any
	for _, text := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		line := map[string]any{}
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	return report, lines
}

// Answers of 300 ms must not slow the arrivals down, nor hide their own wait.
func TestArrivalsDoNotWaitForAnswers(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(300 * time.Millisecond) }))
	defer server.Close()
	report, lines := run(t, context.Background(), Config{
		Rate: 100, Duration: 500 * time.Millisecond, Targets: []*Target{target(t, server.URL), target(t, server.URL)},
		NewRatio: 0.5, Timeout: time.Second, Bucket: 100 * time.Millisecond, InFlight: 1000,
	})
	if report.Sent != 50 || report.OK != 50 || report.New+report.Kept != 50 || report.New < 5 || report.New > 45 || report.Ended != "duration" {
		t.Errorf("%+v", report)
	}
	if report.Latency.P50 < 290 || report.Seconds > 0.6 {
		t.Errorf("latency %+v in %g s", report.Latency, report.Seconds)
	}
	var sent, ok float64
	for _, line := range lines[:len(lines)-1] {
		sent, ok = sent+line["sent"].(float64), ok+line["ok"].(float64)
	}
	if len(lines) < 8 || sent != 50 || ok != 50 || lines[len(lines)-1]["summary"] != true {
		t.Errorf("%d lines, sent %g, ok %g", len(lines), sent, ok)
	}
}

func TestArrivalsByChanceKeepTheRateAndNoBeat(t *testing.T) {
	var mu sync.Mutex
	var at []time.Time
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		at = append(at, time.Now())
	}))
	defer server.Close()
	report, _ := run(t, context.Background(), Config{
		Rate: 50, Duration: time.Second, Targets: []*Target{target(t, server.URL)}, Chance: true,
		Timeout: time.Second, Bucket: time.Second, InFlight: 1000,
	})
	if report.Sent != 50 || report.OK != 50 {
		t.Errorf("%+v", report)
	}
	uneven := 0
	for i := 1; i < len(at); i++ {
		if gap := at[i].Sub(at[i-1]); gap < 14*time.Millisecond || gap > 26*time.Millisecond {
			uneven++
		}
	}
	if uneven < 10 {
		t.Errorf("only %d of %d gaps are not those of a beat", uneven, len(at))
	}
}

func TestTooManyInFlightIsCountedNotHidden(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(300 * time.Millisecond) }))
	defer server.Close()
	report, lines := run(t, context.Background(), Config{
		Rate: 100, Duration: 200 * time.Millisecond, Targets: []*Target{target(t, server.URL)},
		Timeout: time.Second, Bucket: time.Second, InFlight: 5, Failures: true,
	})
	if report.Sent != 20 || report.OK != 5 || report.Errors[KindOverload] != 15 || report.Failed != 15 {
		t.Errorf("%+v", report)
	}
	if len(lines) != 15+1+1 || lines[0]["failure"] != KindOverload {
		t.Errorf("%d lines, first %v", len(lines), lines[0])
	}
}

func TestErrorStatusesAreFailuresByGateway(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("server", "asm-ingressgateway")
		w.WriteHeader(503)
	}))
	defer server.Close()
	report, _ := run(t, context.Background(), Config{
		Rate: 100, Duration: 100 * time.Millisecond, Targets: []*Target{target(t, server.URL)}, NewRatio: 1,
		Timeout: time.Second, Bucket: time.Second, InFlight: 50,
	})
	want := Served{Target: "t", Conn: "new", Gateway: "asm-ingressgateway", Status: 503, N: 10}
	if report.Failed != 10 || len(report.Served) != 1 || report.Served[0] != want || len(report.Errors) != 0 {
		t.Errorf("%+v", report)
	}
}

func TestEndsEarly(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	stop := filepath.Join(t.TempDir(), "stop")
	config := func() Config {
		return Config{Rate: 50, Duration: time.Minute, Targets: []*Target{target(t, server.URL)}, Timeout: time.Second,
			Bucket: time.Second, InFlight: 50, StopFile: stop}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if report, _ := run(t, ctx, config()); report.Ended != "signal" || report.OK != report.Sent || report.Sent < 5 {
		t.Errorf("%+v", report)
	}
	if err := os.WriteFile(stop, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if report, _ := run(t, context.Background(), config()); report.Ended != "stop-file" || report.Sent != 0 {
		t.Errorf("%+v", report)
	}
}

func TestQuantiles(t *testing.T) {
	all := newTally()
	for i := range 1000 {
		all.add(&Outcome{Target: "t", Status: 200, LatencyMS: float64(i + 1)})
	}
	all.add(&Outcome{Target: "t", Kind: KindReset, LatencyMS: 1e6}) // has no place among the answers
	l := all.finish().Latency
	for got, want := range map[float64]float64{l.P50: 500, l.P90: 900, l.P99: 990} {
		if got < want*0.98 || got > want*1.02 {
			t.Errorf("%g, want about %g", got, want)
		}
	}
	if l.Max != 1000 {
		t.Errorf("max %g", l.Max)
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{Rate: 1, Duration: time.Second, Targets: []*Target{{}}, Timeout: time.Second, Bucket: time.Second, InFlight: 1}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, break_ := range map[string]func(*Config){
		"rate": func(c *Config) { c.Rate = 0 }, "rate above": func(c *Config) { c.Rate = 1e9 },
		"duration": func(c *Config) { c.Duration = 0 }, "too long": func(c *Config) { c.Duration = 2 * time.Hour },
		"targets": func(c *Config) { c.Targets = nil }, "ratio": func(c *Config) { c.NewRatio = 1.1 },
		"bucket": func(c *Config) { c.Bucket = time.Millisecond }, "in-flight": func(c *Config) { c.InFlight = 0 },
	} {
		bad := good
		break_(&bad)
		if bad.Check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, url := range []string{"ftp://a/", "a", "http://", "http://a:b/"} {
		if _, err := NewTarget("t", url, nil, nil); err == nil {
			t.Errorf("%s: accepted", url)
		}
	}
}
