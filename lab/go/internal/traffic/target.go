// Copyright: (c) 2026, the servicemesh.migration authors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// Package traffic is an open-loop load generator: requests arrive at a constant
// rate whatever the answers do, and nothing that fails is hidden.
package traffic

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Kinds of failure. A request that got a status, whatever it is, has none.
const (
	KindDial     = "dial"     // no TCP connection (refused, unreachable, not in time)
	KindTLS      = "tls"      // handshake refused: certificate or alert
	KindReset    = "reset"    // connection reset by the other side
	KindEOF      = "eof"      // closed before the whole answer was here
	KindTimeout  = "timeout"  // no whole answer in time
	KindProtocol = "protocol" // not HTTP
	KindOverload = "overload" // too many in flight here: not sent, yet it is a failure of the run
)

// maxIdle is how long a kept connection may rest before we close it ourselves.
const maxIdle = 30 * time.Second

// Target is one URL that takes a share of the arrivals.
type Target struct {
	Name    string
	url     *url.URL
	address string // host:port to dial, after -resolve
	tls     *tls.Config
	mu      sync.Mutex
	idle    []*conn // last in, first out
	before  func()  // for tests: called before a request is written on a kept connection
}

// NewTarget checks the URL. resolve maps host names to addresses; roots may be nil (system roots).
func NewTarget(name, raw string, resolve map[string]string, roots *x509.CertPool) (*Target, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, err
	}
	port := map[string]string{"http": "80", "https": "443"}[u.Scheme]
	if port == "" || u.Hostname() == "" || name == "" {
		return nil, fmt.Errorf("target %s=%s: wants a name and an http or https URL", name, raw)
	}
	if u.Port() != "" {
		port = u.Port()
	}
	host := u.Hostname()
	if to := resolve[host]; to != "" {
		host = to
	}
	t := &Target{Name: name, url: u, address: net.JoinHostPort(host, port)}
	if u.Scheme == "https" {
		t.tls = &tls.Config{ServerName: u.Hostname(), RootCAs: roots, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}
	}
	return t, nil
}

type conn struct {
	net.Conn              // what HTTP is spoken on (TLS or not)
	raw      *net.TCPConn // below it
	reader   *bufio.Reader
	got      int64 // bytes of answer read, to tell "no answer" from "half an answer"
	since    time.Time
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.got += int64(n)
	return n, err
}

func (c *conn) control(f func(fd uintptr)) bool {
	raw, err := c.raw.SyscallConn()
	return err == nil && raw.Control(f) == nil
}

// closedIdle says whether the server has closed a resting connection: then there is
// something to read (end of stream, TLS close_notify, a reset) though we asked nothing.
func (c *conn) closedIdle() bool {
	if c.reader.Buffered() > 0 || time.Since(c.since) > maxIdle {
		return true
	}
	closed := true
	c.control(func(fd uintptr) {
		_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		closed = err != syscall.EAGAIN
	})
	return closed
}

// tcpInfoBytesAcked is the offset of tcpi_bytes_acked (u64) in linux/tcp.h struct tcp_info.
const tcpInfoBytesAcked = 120

// acked is how many bytes the other side's kernel has taken, or -1 when it cannot be known.
func (c *conn) acked() int64 {
	var info [256]byte
	size, answer := uint32(len(info)), int64(-1)
	c.control(func(fd uintptr) {
		_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
			uintptr(unsafe.Pointer(&info[0])), uintptr(unsafe.Pointer(&size)), 0)
		if errno == 0 && size >= tcpInfoBytesAcked+8 {
			answer = *(*int64)(unsafe.Pointer(&info[tcpInfoBytesAcked]))
		}
	})
	return answer
}

// take gives a kept connection that is still open, or nil; closed counts those that were not.
func (t *Target) take() (c *conn, closed int) {
	for {
		t.mu.Lock()
		n := len(t.idle)
		if n == 0 {
			t.mu.Unlock()
			return nil, closed
		}
		c, t.idle = t.idle[n-1], t.idle[:n-1]
		t.mu.Unlock()
		if !c.closedIdle() {
			return c, closed
		}
		c.Close()
		closed++
	}
}

func (t *Target) keep(c *conn) {
	c.since = time.Now()
	t.mu.Lock()
	t.idle = append(t.idle, c)
	t.mu.Unlock()
}

func (t *Target) closeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.idle {
		c.Close()
	}
	t.idle = nil
}

func (t *Target) dial(deadline time.Time) (*conn, error) {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	plain, err := (&net.Dialer{KeepAlive: -1}).DialContext(ctx, "tcp", t.address)
	if err != nil {
		return nil, &failure{KindDial, err}
	}
	c := &conn{Conn: plain, raw: plain.(*net.TCPConn), since: time.Now()}
	if t.tls != nil {
		secure := tls.Client(plain, t.tls)
		if err := secure.HandshakeContext(ctx); err != nil {
			plain.Close()
			return nil, &failure{kindOf(err, KindTLS), err}
		}
		c.Conn = secure
	}
	c.reader = bufio.NewReader(c)
	return c, nil
}

// failure is an error with its kind.
type failure struct {
	kind string
	err  error
}

func (f *failure) Error() string { return f.kind + ": " + f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func kindOf(err error, otherwise string) string {
	var timeout net.Error
	var known *failure
	switch {
	case errors.As(err, &known):
		return known.kind
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return KindReset
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return KindEOF
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return KindTimeout
	}
	return otherwise
}

// exchange sends one GET and reads the whole answer.
func (c *conn) exchange(t *Target, seq int64, last bool, deadline time.Time) (*http.Response, error) {
	if err := c.SetDeadline(deadline); err != nil {
		return nil, err
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: lab-traffic\r\nX-Lab-Seq: %d\r\n", t.url.RequestURI(), t.url.Host, seq)
	if last {
		text.WriteString("Connection: close\r\n")
	}
	text.WriteString("\r\n")
	c.got = 0
	if _, err := c.Write(text.Bytes()); err != nil {
		return nil, err
	}
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return nil, err
	}
	if _, err = io.Copy(io.Discard, response.Body); err != nil {
		return nil, err
	}
	return response, c.SetDeadline(time.Time{})
}

// get makes one request, on a new connection that is closed after it (fresh) or on a kept one.
//
// Nothing is retried, with one exception that is counted as stale_retry: the server had closed a
// kept connection (its FIN crossed the request) and its kernel took not one byte of the request, so
// it cannot have been served. Every HTTP client must live with that; it is no loss of the server's.
// A FIN sent after the request was read would acknowledge it; a reset without a FIN proves nothing: both fail.
func (t *Target) get(seq int64, fresh bool, deadline time.Time) (o Outcome) {
	o.Target, o.New = t.Name, fresh
	var c *conn
	if !fresh {
		c, o.IdleClosed = t.take()
	}
	for {
		kept, err := c != nil, error(nil)
		before := int64(-1)
		if kept {
			before = c.acked()
			if t.before != nil {
				t.before()
			}
		} else if c, err = t.dial(deadline); err != nil {
			o.fail(err)
			return o
		}
		response, err := c.exchange(t, seq, fresh, deadline)
		if err == nil {
			o.Status = response.StatusCode
			o.Gateway, o.Version = response.Header.Get("server"), response.Header.Get("x-lab-version")
			if fresh || response.Close {
				c.Close()
			} else {
				t.keep(c)
			}
			return o
		}
		fin := kindOf(err, KindProtocol) == KindEOF || errors.Is(err, syscall.EPIPE)
		unseen := kept && fin && c.got == 0 && before >= 0 && c.acked() == before
		c.Close()
		if !unseen {
			o.fail(err)
			return o
		}
		o.StaleRetry, c = 1, nil // the next round dials, so it cannot come here again
	}
}
