// Copyright: (c) 2026, the servicemesh.migration authors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package traffic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Limits of a run, so that a forgotten generator ends by itself.
const (
	MaxDuration = time.Hour
	MaxRate     = 20000.0
	maxFailures = 1000 // failure lines written in full
)

// Config is a run. Every field is needed but StopFile and Failures.
type Config struct {
	Rate     float64 // arrivals per second over all targets
	Duration time.Duration
	Targets  []*Target
	NewRatio float64 // part of the arrivals on a connection of their own, 0..1
	Timeout  time.Duration
	Bucket   time.Duration
	InFlight int64 // bound of requests under way
	StopFile string
	Failures bool      // also write a line per failed request (at most 1000)
	Streams  []*Target // each has one answer open all the time
	Chance   bool      // each arrival at a moment by chance in its 1/Rate, so that nothing can keep step with us
}

// Check says what is wrong with a configuration.
func (c *Config) Check() error {
	switch {
	case c.Rate <= 0 || c.Rate > MaxRate:
		return fmt.Errorf("rate %g: wants more than 0 and at most %g a second", c.Rate, MaxRate)
	case c.Duration <= 0 || c.Duration > MaxDuration:
		return fmt.Errorf("duration %s: wants more than 0 and at most %s", c.Duration, MaxDuration)
	case len(c.Targets) == 0:
		return errors.New("no target")
	case !(c.NewRatio >= 0 && c.NewRatio <= 1):
		return fmt.Errorf("new-ratio %g: wants 0 to 1", c.NewRatio)
	case c.Timeout <= 0 || c.Bucket < 10*time.Millisecond || c.InFlight < 1:
		return errors.New("timeout, bucket (at least 10ms) and in-flight must be positive")
	}
	return nil
}

// failureLine is written for a failed request when Config.Failures is set.
type failureLine struct {
	Time    float64 `json:"t"`
	Failure string  `json:"failure"` // kind, or "status"
	Target  string  `json:"target"`
	New     bool    `json:"new"`
	Status  int     `json:"status,omitempty"`
	Gateway string  `json:"gateway,omitempty"`
	Detail  string  `json:"detail,omitempty"`
	Latency float64 `json:"latency_ms"`
}

// Run makes the arrivals until the duration is over, ctx is done or the stop file appears; then it
// waits for what is under way. Lines of JSON go to out; the summary is also returned.
func Run(ctx context.Context, c Config, out io.Writer) (Report, error) {
	if err := c.Check(); err != nil {
		return Report{}, err
	}
	start := time.Now()
	outcomes := make(chan Outcome, 4096)
	var sent, inFlight atomic.Int64
	streams, following := make(chan StreamLine, 64), sync.WaitGroup{}
	open, shut := context.WithCancel(context.Background())
	defer shut()
	for _, t := range c.Streams {
		following.Add(1)
		go func() { defer following.Done(); t.streams(open, c.Timeout, streams) }()
	}
	summary := make(chan Report, 1)
	writeError := make(chan error, 1)
	go func() {
		report, err := record(c, start, &sent, &inFlight, outcomes, streams, out)
		writeError <- err
		summary <- report
	}()
	var under sync.WaitGroup
	ended := arrivals(ctx, c, start, &sent, &inFlight, &under, outcomes)
	stopped := time.Since(start).Seconds()
	under.Wait() // each ends by its timeout
	shut()
	following.Wait()
	close(streams)
	close(outcomes)
	err := <-writeError
	report := <-summary
	report.Summary, report.Ended, report.Seconds = true, ended, round(stopped)
	report.Rate = round(float64(report.Sent) / stopped)
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) == nil {
		report.CPU = round(time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds())
	}
	for _, t := range c.Targets {
		t.closeAll()
	}
	if err == nil {
		err = json.NewEncoder(out).Encode(report)
	}
	return report, err
}

// arrivals starts request i at start + i/rate (by chance: in the 1/rate after it), late ones at once and
// all of them, and returns why it ended. Target and kind of connection are chosen by chance: a load balancer deals out connections in turn,
// and a beat of ours beside the beat of a probe would show the same side to each of them for ever.
func arrivals(ctx context.Context, c Config, start time.Time, sent, inFlight *atomic.Int64, under *sync.WaitGroup, outcomes chan<- Outcome) string {
	gap := float64(time.Second) / c.Rate
	timer := time.NewTimer(0)
	defer timer.Stop()
	var looked time.Time
	for i := int64(0); ; i++ {
		place := float64(i)
		if c.Chance {
			place += rand.Float64()
		}
		after := time.Duration(place * gap)
		over := after >= c.Duration
		due := start.Add(min(after, c.Duration))
		if now := time.Now(); c.StopFile != "" && now.Sub(looked) > 100*time.Millisecond {
			looked = now
			if _, err := os.Stat(c.StopFile); err == nil {
				return "stop-file"
			}
		}
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-ctx.Done():
				return "signal"
			case <-timer.C:
			}
		} else if ctx.Err() != nil {
			return "signal"
		}
		if over {
			return "duration"
		}
		t := c.Targets[rand.IntN(len(c.Targets))]
		fresh := rand.Float64() < c.NewRatio
		sent.Add(1)
		if inFlight.Load() >= c.InFlight {
			outcomes <- Outcome{Target: t.Name, New: fresh, Kind: KindOverload, Detail: "too many in flight", LagMS: ms(time.Since(due))}
			continue
		}
		inFlight.Add(1)
		under.Add(1)
		go func() {
			defer under.Done()
			lag := time.Since(due)
			o := t.get(i, fresh, due.Add(lag+c.Timeout))
			o.LatencyMS, o.LagMS = ms(time.Since(due)), ms(lag)
			inFlight.Add(-1)
			outcomes <- o
		}()
	}
}

// record sorts the outcomes into buckets of time, by when they ended, and writes a line for each:
// also for an empty one, since silence is a finding.
func record(c Config, start time.Time, sent, inFlight *atomic.Int64, outcomes <-chan Outcome, streams <-chan StreamLine, out io.Writer) (Report, error) {
	lines := json.NewEncoder(out)
	var broken error
	write := func(line any) {
		if err := lines.Encode(line); err != nil && broken == nil {
			broken = err
		}
	}
	all, bucket := newTally(), newTally()
	var sums StreamSums
	follow := func(line StreamLine) {
		sums.add(&line)
		write(line)
	}
	from, before, failures := start, int64(0), 0
	flush := func() {
		now, count := time.Now(), sent.Load()
		r := &bucket.report
		r.Time, r.Seconds = seconds(from), round(now.Sub(from).Seconds())
		r.Sent, r.InFlight = count-before, inFlight.Load()
		write(bucket.finish())
		from, before, bucket = now, count, newTally()
	}
	ticker := time.NewTicker(c.Bucket)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			flush()
		case line, open := <-streams:
			if !open {
				streams = nil
				continue
			}
			follow(line)
		case o, open := <-outcomes:
			if !open {
				if streams != nil {
					for line := range streams {
						follow(line)
					}
				}
				if len(c.Streams) > 0 {
					all.report.Streams = &sums
				}
				if time.Since(from) > time.Millisecond || bucket.report.OK+bucket.report.Failed > 0 {
					flush()
				}
				all.report.Time, all.report.Sent = seconds(start), sent.Load()
				return all.finish(), broken
			}
			all.add(&o)
			bucket.add(&o)
			if c.Failures && o.failed() && failures < maxFailures {
				failures++
				kind := o.Kind
				if kind == "" {
					kind = "status"
				}
				write(failureLine{seconds(time.Now()), kind, o.Target, o.New, o.Status, o.Gateway, o.Detail, round(o.LatencyMS)})
			}
		}
	}
}

func ms(d time.Duration) float64  { return float64(d) / float64(time.Millisecond) }
func seconds(t time.Time) float64 { return round(float64(t.UnixMicro()) / 1e6) }
