// Copyright: (c) 2026, the servicemesh.migration authors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package traffic

import (
	"math"
	"sort"
	"strconv"
)

// Outcome is what became of one arrival.
type Outcome struct {
	Target     string
	New        bool // on a connection of its own
	Status     int  // 0 when there was no whole answer
	Gateway    string
	Version    string
	Kind       string // of failure, "" when Status is set
	Detail     string
	LatencyMS  float64 // from the scheduled time to the last byte
	LagMS      float64 // how late this program itself began: its own fault, not the server's
	IdleClosed int     // kept connections found closed before anything was written
	StaleRetry int     // see Target.get
}

func (o *Outcome) fail(err error) {
	o.Kind, o.Detail = kindOf(err, KindProtocol), err.Error()
}

// failed counts every arrival that a user would call lost: no answer, or an error status.
func (o *Outcome) failed() bool { return o.Kind != "" || o.Status >= 400 }

// Served counts the answers that are alike.
type Served struct {
	Target  string `json:"target"`
	Conn    string `json:"conn"` // "new" or "kept"
	Gateway string `json:"gateway"`
	Version string `json:"version"`
	Status  int    `json:"status"`
	N       int64  `json:"n"`
}

// Latency in milliseconds, from the scheduled time, of whole answers (bins of 2 %; max is exact).
type Latency struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// Report is one line of output: a bucket of time, or the summary of the run.
type Report struct {
	Time       float64          `json:"t"`          // start, seconds since the epoch
	Seconds    float64          `json:"duration_s"` // really measured
	Rate       float64          `json:"rate"`       // arrivals per second
	Sent       int64            `json:"sent"`       // arrivals, each answered for in the same or a later bucket
	OK         int64            `json:"ok"`
	Failed     int64            `json:"failed"` // errors and statuses >= 400
	InFlight   int64            `json:"in_flight"`
	New        int64            `json:"new"`
	Kept       int64            `json:"kept"`
	Status     map[string]int64 `json:"status"`
	Errors     map[string]int64 `json:"errors"`
	Latency    Latency          `json:"latency_ms"`
	LagMax     float64          `json:"lag_ms_max"`
	IdleClosed int64            `json:"idle_closed"`
	StaleRetry int64            `json:"stale_retry"`
	Served     []Served         `json:"served"`
	Streams    *StreamSums      `json:"streams,omitempty"` // in the summary
	Summary    bool             `json:"summary,omitempty"`
	Ended      string           `json:"ended,omitempty"` // "duration", "signal" or "stop-file"
	CPU        float64          `json:"cpu_s,omitempty"` // this program's own
}

// tally gathers outcomes; one goroutine owns it.
type tally struct {
	report Report
	served map[Served]int64
	bins   map[int]int64
	whole  int64
}

func newTally() *tally {
	return &tally{
		report: Report{Status: map[string]int64{}, Errors: map[string]int64{}},
		served: map[Served]int64{}, bins: map[int]int64{},
	}
}

const binWidth = 1.02

func (t *tally) add(o *Outcome) {
	r := &t.report
	word := "kept"
	if o.New {
		word = "new"
		r.New++
	} else {
		r.Kept++
	}
	if o.failed() {
		r.Failed++
	} else {
		r.OK++
	}
	r.IdleClosed += int64(o.IdleClosed)
	r.StaleRetry += int64(o.StaleRetry)
	r.LagMax = max(r.LagMax, round(o.LagMS))
	if o.Kind != "" {
		r.Errors[o.Kind]++
		return
	}
	r.Status[strconv.Itoa(o.Status)]++
	t.served[Served{Target: o.Target, Conn: word, Gateway: o.Gateway, Version: o.Version, Status: o.Status}]++
	r.Latency.Max = max(r.Latency.Max, round(o.LatencyMS))
	t.bins[int(math.Floor(math.Log(max(o.LatencyMS, 0.001))/math.Log(binWidth)))]++
	t.whole++
}

// finish computes the quantiles and lists what was served.
func (t *tally) finish() Report {
	r := t.report
	keys := make([]int, 0, len(t.bins))
	for k := range t.bins {
		keys = append(keys, k)
	}
	sort.Ints(keys)
	for q, to := range map[float64]*float64{0.5: &r.Latency.P50, 0.9: &r.Latency.P90, 0.99: &r.Latency.P99} {
		seen := int64(0)
		for _, k := range keys {
			if seen += t.bins[k]; float64(seen) >= q*float64(t.whole) {
				*to = min(round(math.Pow(binWidth, float64(k)+0.5)), r.Latency.Max)
				break
			}
		}
	}
	r.Served = make([]Served, 0, len(t.served))
	for s, n := range t.served {
		s.N = n
		r.Served = append(r.Served, s)
	}
	sort.Slice(r.Served, func(i, j int) bool {
		a, b := r.Served[i], r.Served[j]
		if a.Target != b.Target {
			return a.Target < b.Target
		}
		if a.Gateway != b.Gateway {
			return a.Gateway < b.Gateway
		}
		if a.Status != b.Status {
			return a.Status < b.Status
		}
		return a.Conn+a.Version < b.Conn+b.Version
	})
	if r.Seconds > 0 {
		r.Rate = round(float64(r.Sent) / r.Seconds)
	}
	return r
}

func round(v float64) float64 { return math.Round(v*1000) / 1000 }
