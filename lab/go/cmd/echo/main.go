// Copyright: (c) 2026, the servicemesh.migration authors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// Command echo is the lab's sample application. It says which version and pod
// answered and who called, so that a test can prove where a request went.
//
// Headers of every answer: x-lab-version, x-lab-pod, x-lab-caller (the SPIFFE
// id of the peer, from the last element of x-forwarded-client-cert; empty when
// the call was not mutual TLS). Paths: /status/503 answers that status,
// /delay/250ms waits first, /fetch?url=URL calls URL and reports its answer,
// /stream answers a line every 200 ms until SIGTERM, then the line "end",
// anything else answers 200 and a JSON description of the request.
// HTTP/1.1 and HTTP/2 without TLS (h2c) are both spoken on every port.
// On SIGTERM it answers for another -drain while it asks clients to close.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	maxDelay   = time.Minute
	streamBeat = 200 * time.Millisecond
)

type server struct {
	version, pod string
	client       *http.Client
	draining     atomic.Bool
	ending       chan struct{} // closed when it drains
}

// answer is the JSON body of a plain request.
type answer struct {
	Version string              `json:"version"`
	Pod     string              `json:"pod"`
	Caller  string              `json:"caller"`
	Method  string              `json:"method"`
	Host    string              `json:"host"`
	Path    string              `json:"path"`
	Proto   string              `json:"proto"`
	Remote  string              `json:"remote"`
	Port    string              `json:"port"`
	Headers map[string][]string `json:"headers"`
}

// fetched is the JSON body of /fetch: what the other side answered.
type fetched struct {
	URL     string              `json:"url"`
	Status  int                 `json:"status"`
	Error   string              `json:"error,omitempty"`
	Headers map[string][]string `json:"headers,omitempty"`
	Body    string              `json:"body,omitempty"`
}

// callerOf returns the SPIFFE id of the nearest peer: proxies append, so it is
// the URI of the last element. Quoted values may hold commas and semicolons.
func callerOf(xfcc string) string {
	caller, field, quoted := "", strings.Builder{}, false
	end := func() {
		key, value, found := strings.Cut(field.String(), "=")
		if found && strings.EqualFold(strings.TrimSpace(key), "uri") {
			caller = strings.Trim(value, `"`)
		}
		field.Reset()
	}
	for _, r := range xfcc {
		switch {
		case r == '"':
			quoted = !quoted
			field.WriteRune(r)
		case !quoted && r == ';':
			end()
		case !quoted && r == ',':
			end()
			caller = "" // a new element begins
		default:
			field.WriteRune(r)
		}
	}
	end()
	return caller
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	caller := callerOf(r.Header.Get("X-Forwarded-Client-Cert"))
	w.Header().Set("x-lab-version", s.version)
	w.Header().Set("x-lab-pod", s.pod)
	w.Header().Set("x-lab-caller", caller)
	first, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	status := http.StatusOK
	switch first {
	case "readyz":
		if s.draining.Load() {
			status = http.StatusServiceUnavailable
		}
	case "status":
		code, err := strconv.Atoi(rest)
		if err != nil || code < 200 || code > 599 {
			http.Error(w, "status wants a number from 200 to 599", http.StatusBadRequest)
			return
		}
		status = code
	case "delay":
		delay, err := time.ParseDuration(rest)
		if err != nil || delay < 0 || delay > maxDelay {
			http.Error(w, "delay wants a duration of at most "+maxDelay.String(), http.StatusBadRequest)
			return
		}
		select {
		case <-time.After(delay):
		case <-r.Context().Done():
			return
		}
	case "fetch":
		s.fetch(w, r)
		return
	case "stream":
		s.stream(w, r)
		return
	}
	local, port := r.Context().Value(http.LocalAddrContextKey), ""
	if address, ok := local.(net.Addr); ok {
		_, port, _ = net.SplitHostPort(address.String())
	}
	writeJSON(w, status, answer{
		Version: s.version, Pod: s.pod, Caller: caller, Method: r.Method, Host: r.Host,
		Path: r.URL.RequestURI(), Proto: r.Proto, Remote: r.RemoteAddr, Port: port, Headers: r.Header,
	})
}

// stream goes on until this program is asked to end, or the client goes.
func (s *server) stream(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("content-type", "text/plain")
	ticker, out := time.NewTicker(streamBeat), http.NewResponseController(w)
	defer ticker.Stop()
	for number := 0; ; number++ {
		if _, err := fmt.Fprintln(w, number); err != nil || out.Flush() != nil {
			return
		}
		select {
		case <-ticker.C:
		case <-r.Context().Done():
			return
		case <-s.ending:
			fmt.Fprintln(w, "end")
			return
		}
	}
}

// fetch answers 200 with the other side's answer inside, or 502 when there was none.
func (s *server) fetch(w http.ResponseWriter, r *http.Request) {
	out := fetched{URL: r.URL.Query().Get("url")}
	request, err := http.NewRequestWithContext(r.Context(), http.MethodGet, out.URL, nil)
	if err == nil {
		var response *http.Response
		if response, err = s.client.Do(request); err == nil {
			var body []byte
			body, err = io.ReadAll(io.LimitReader(response.Body, 1<<20))
			response.Body.Close()
			out.Status, out.Headers, out.Body = response.StatusCode, response.Header, string(body)
		}
	}
	status := http.StatusOK
	if err != nil {
		out.Error, status = err.Error(), http.StatusBadGateway
	}
	writeJSON(w, status, out)
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("content-type", "application/json")
	if status == http.StatusNoContent || status == http.StatusNotModified {
		w.WriteHeader(status) // these have no body
		return
	}
	text, err := json.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("content-length", strconv.Itoa(len(text)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n'))
}

func newServer(version, pod string) *server {
	return &server{version: version, pod: pod, ending: make(chan struct{}), client: &http.Client{
		Timeout:       10 * time.Second,
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func serve(ctx context.Context, s *server, addresses []string, drain time.Duration) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	var servers []*http.Server
	failed := make(chan error, len(addresses))
	for _, address := range addresses {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		one := &http.Server{Handler: s, Protocols: protocols, ReadHeaderTimeout: 10 * time.Second}
		servers = append(servers, one)
		go func() { failed <- one.Serve(listener) }()
		fmt.Printf("echo %s listens on %s\n", s.version, listener.Addr())
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	s.draining.Store(true)
	close(s.ending)
	for _, one := range servers {
		one.SetKeepAlivesEnabled(false)
	}
	time.Sleep(drain)
	last, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var wait sync.WaitGroup
	for _, one := range servers {
		wait.Add(1)
		go func() { defer wait.Done(); _ = one.Shutdown(last) }()
	}
	wait.Wait()
	return nil
}

func main() {
	listen := flag.String("listen", envOr("LISTEN", ":8080"), "addresses to listen on, comma separated")
	drain := flag.Duration("drain", 3*time.Second, "how long to answer after SIGTERM")
	flag.Parse()
	host, _ := os.Hostname()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	s := newServer(envOr("VERSION", "v1"), envOr("POD_NAME", host))
	err := serve(ctx, s, strings.Split(*listen, ","), *drain)
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
}

func envOr(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
