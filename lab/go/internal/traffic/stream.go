// Copyright: (c) 2026, the servicemesh.migration authors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package traffic

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// How a stream ended. Else it is the kind of a failure, or "status 503".
const (
	StreamDrained = "drained" // its server said "end" and closed the answer
	StreamOpen    = "open"    // this run ended first
	streamEnd     = "end"
	streamPause   = 200 * time.Millisecond // before another try where none could be opened
)

// StreamLine is written when a stream has ended: one answer that goes on and on, as gRPC's of a server.
type StreamLine struct {
	Time    float64 `json:"t"`
	Stream  string  `json:"stream"` // the target
	How     string  `json:"how"`
	Opened  float64 `json:"opened"` // 0 when it never was
	Pod     string  `json:"pod,omitempty"`
	Gateway string  `json:"gateway,omitempty"`
	Lines   int64   `json:"lines"`
	GapMS   float64 `json:"gap_ms"` // the longest silence in it
	Detail  string  `json:"detail,omitempty"`
}

// streams keeps one stream of a target open until ctx is done, and tells of each that ends.
func (t *Target) streams(ctx context.Context, silence time.Duration, told chan<- StreamLine) {
	for ctx.Err() == nil {
		line := t.follow(ctx, silence)
		if ctx.Err() != nil && line.Opened == 0 {
			return // not even begun
		}
		told <- line
		if line.Opened == 0 {
			select {
			case <-ctx.Done():
			case <-time.After(streamPause):
			}
		}
	}
}

// follow reads one stream to its end. A silence that is too long is a failure.
func (t *Target) follow(ctx context.Context, silence time.Duration) (s StreamLine) {
	s.Stream = t.Name
	over := func(how string, err error) StreamLine {
		s.Time, s.How = seconds(time.Now()), how
		if ctx.Err() != nil {
			s.How, err = StreamOpen, nil
		}
		if err != nil {
			s.Detail = err.Error()
		}
		return s
	}
	c, err := t.dial(time.Now().Add(silence))
	if err != nil {
		return over(kindOf(err, KindDial), err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	_ = c.SetDeadline(time.Now().Add(silence))
	if _, err = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: lab-traffic\r\n\r\n", t.url.RequestURI(), t.url.Host); err != nil {
		return over(kindOf(err, KindProtocol), err)
	}
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return over(kindOf(err, KindProtocol), err)
	}
	s.Pod, s.Gateway = response.Header.Get("x-lab-pod"), response.Header.Get("server")
	if response.StatusCode != http.StatusOK {
		return over(fmt.Sprintf("status %d", response.StatusCode), errors.New(response.Status))
	}
	last, ended := time.Now(), false
	s.Opened = seconds(last)
	for body := bufio.NewReader(response.Body); ; {
		_ = c.SetDeadline(time.Now().Add(silence))
		text, err := body.ReadString('\n')
		now := time.Now()
		s.GapMS, last = max(s.GapMS, round(ms(now.Sub(last)))), now
		switch {
		case err == nil:
			s.Lines++
			ended = strings.TrimSpace(text) == streamEnd
		case errors.Is(err, io.EOF) && ended:
			return over(StreamDrained, nil)
		default:
			return over(kindOf(err, KindProtocol), err)
		}
	}
}

// StreamSums is what became of all streams of a run.
type StreamSums struct {
	Opened  int64            `json:"opened"`
	Ended   map[string]int64 `json:"ended"` // by how
	GapMS   float64          `json:"gap_ms_max"`
	Longest float64          `json:"longest_s"`
}

func (s *StreamSums) add(line *StreamLine) {
	if line.Opened > 0 {
		s.Opened++
		s.Longest = max(s.Longest, round(line.Time-line.Opened))
	}
	if s.Ended == nil {
		s.Ended = map[string]int64{}
	}
	s.Ended[line.How]++
	s.GapMS = max(s.GapMS, line.GapMS)
}
