// Copyright: (c) 2026, the servicemesh.migration authors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestCallerOf(t *testing.T) {
	gateway := "spiffe://cluster.local/ns/istio-system/sa/gw"
	for name, c := range map[string]struct{ xfcc, want string }{
		"none":          {"", ""},
		"one":           {`By=spiffe://cluster.local/ns/demo/sa/echo;Hash=ab;Subject="";URI=` + gateway, gateway},
		"quoted":        {`By=x;Subject="CN=a,O=b;URI=no";URI=` + gateway, gateway},
		"last wins":     {"By=x;URI=spiffe://first,By=y;URI=" + gateway, gateway},
		"last has none": {"By=x;URI=spiffe://first,By=y;Hash=1", ""},
	} {
		if got := callerOf(c.xfcc); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func get(t *testing.T, url string, header http.Header) (*http.Response, []byte) {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header = header
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, body
}

func TestAnswers(t *testing.T) {
	one := httptest.NewServer(newServer("v1", "pod-1"))
	defer one.Close()
	two := httptest.NewServer(newServer("v2", "pod-2"))
	defer two.Close()
	response, body := get(t, one.URL+"/a?b=c", http.Header{"X-Forwarded-Client-Cert": {"By=x;URI=spiffe://me"}})
	var said answer
	if err := json.Unmarshal(body, &said); err != nil {
		t.Fatal(err)
	}
	if response.Header.Get("x-lab-version") != "v1" || response.Header.Get("x-lab-caller") != "spiffe://me" ||
		said.Pod != "pod-1" || said.Path != "/a?b=c" || said.Caller != "spiffe://me" {
		t.Errorf("answered %v %+v", response.Header, said)
	}
	for path, want := range map[string]int{"/status/503": 503, "/status/204": 204, "/status/9": 400, "/delay/1ms": 200, "/delay/1h": 400, "/readyz": 200} {
		if response, _ := get(t, one.URL+path, nil); response.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, response.StatusCode, want)
		}
	}
	_, body = get(t, one.URL+"/fetch?url="+two.URL+"/status/418", nil)
	var seen fetched
	if err := json.Unmarshal(body, &seen); err != nil || seen.Status != 418 || seen.Headers["X-Lab-Version"][0] != "v2" {
		t.Errorf("fetched %s (%v)", body, err)
	}
	if response, _ = get(t, one.URL+"/fetch?url=http://127.0.0.1:1/", nil); response.StatusCode != 502 {
		t.Errorf("fetch of nothing: %d", response.StatusCode)
	}
}

// A rolling update takes an echo pod away: it must answer through the drain, over HTTP/1.1 and h2c.
func TestDrainLosesNothing(t *testing.T) {
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := probe.Addr().String()
	probe.Close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s := newServer("v1", "pod")
	go func() { done <- serve(ctx, s, []string{address}, 200*time.Millisecond) }()
	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	clients := map[string]*http.Client{
		"HTTP/1.1": {Transport: &http.Transport{}}, "HTTP/2.0": {Transport: &http.Transport{Protocols: h2}},
	}
	ask := func() {
		t.Helper()
		for proto, client := range clients {
			response, err := client.Get("http://" + address + "/")
			for i := 0; err != nil && i < 50 && !s.draining.Load(); i++ { // it may not listen yet
				time.Sleep(10 * time.Millisecond)
				response, err = client.Get("http://" + address + "/")
			}
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.Proto != proto {
				t.Errorf("spoke %s, want %s", response.Proto, proto)
			}
		}
	}
	ask()
	streams := map[string]*http.Response{}
	for proto, client := range clients {
		if streams[proto], err = client.Get("http://" + address + "/stream"); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	for !s.draining.Load() {
		time.Sleep(time.Millisecond)
	}
	ask()
	if response, _ := get(t, "http://"+address+"/readyz", nil); response.StatusCode != 503 || !response.Close {
		t.Errorf("draining: %d close=%v", response.StatusCode, response.Close)
	}
	for proto, response := range streams {
		if text, err := io.ReadAll(response.Body); err != nil || !strings.HasSuffix(string(text), "\nend\n") {
			t.Errorf("%s: the stream ended with %v after %q", proto, err, text)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
