package httpapi

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/offloader/offloader/internal/source"
)

// Metrics are what has to be observed as it happens. All else is read when somebody scrapes.
type Metrics struct {
	sync prometheus.Histogram
	ack  *prometheus.HistogramVec
}

// buckets reach from a fast disk's fsync to what only a disk in trouble takes.
var buckets = []float64{
	50e-6, 100e-6, 200e-6, 350e-6, 500e-6, 750e-6, 1e-3, 1.5e-3, 2.5e-3, 5e-3,
	10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1, 2.5, 5, 10,
}

// NewMetrics makes the histograms.
func NewMetrics() *Metrics {
	return &Metrics{
		sync: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "offloader_fsync_duration_seconds", Buckets: buckets,
			Help: "How long each fsync of the stream in the spool took.",
		}),
		ack: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "offloader_ack_duration_seconds", Buckets: buckets,
			Help: "How long received bytes waited until the master was told that they are durable.",
		}, []string{"source"}),
	}
}

// Synced takes note of an fsync of the spool. It allocates nothing.
func (m *Metrics) Synced(took time.Duration) { m.sync.Observe(took.Seconds()) }

// Acks observes the acknowledgements of one source, and allocates nothing for one.
func (m *Metrics) Acks(name string) source.Observer { return acks{m.ack.WithLabelValues(name)} }

// Forget drops what is kept of a source that is no longer archived.
func (m *Metrics) Forget(name string) { m.ack.DeleteLabelValues(name) }

type acks struct{ waits prometheus.Observer }

// Acked implements source.Observer.
func (a acks) Acked(_ string, took time.Duration) { a.waits.Observe(took.Seconds()) }

// metrics is /metrics, with a registry of its own.
func (s *Server) metrics() http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(newCollector(s), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if m := s.o.Metrics; m != nil {
		r.MustRegister(m.sync, m.ack)
	}
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: answerTime / 2})
}

// collector asks the sources when it is asked itself.
type collector struct {
	s     *Server
	descs map[string]*prometheus.Desc
}

func newCollector(s *Server) *collector {
	c := &collector{s, map[string]*prometheus.Desc{}}
	for _, m := range daemonMetrics {
		c.descs[m.name] = prometheus.NewDesc(m.name, m.help, m.labels, nil)
	}
	for _, m := range sourceMetrics {
		c.descs[m.name] = prometheus.NewDesc(m.name, m.help, []string{"source"}, nil)
	}
	for _, m := range storeMetrics {
		c.descs[m.name] = prometheus.NewDesc(m.name, m.help, []string{"source", "store"}, nil)
	}
	for _, m := range replicaMetrics {
		c.descs[m.name] = prometheus.NewDesc(m.name, m.help, []string{"source", "replica"}, nil)
	}
	for _, m := range jobMetrics {
		c.descs[m.name] = prometheus.NewDesc(m.name, m.help, []string{"job"}, nil)
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	now := c.s.o.Now()
	sources := c.s.o.Sources(now)
	used := c.s.o.Spool.Used()
	outlook := c.s.growing.look(sources, used, c.s.o.Spool.MaxSize(), now)
	emit := func(name string, kind prometheus.ValueType, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(c.descs[name], kind, v, labels...)
	}
	b := c.s.o.Build
	emit("offloader_build_info", gauge, 1, b.Version, b.Commit, b.Go)
	emit("offloader_spool_bytes", gauge, float64(used))
	emit("offloader_spool_max_bytes", gauge, float64(c.s.o.Spool.MaxSize()))
	emit("offloader_spool_full_seconds", gauge, outlook.spoolFull)
	for i, d := range c.s.o.Disks {
		switch o := outlook.disks[i]; {
		case !o.known:
		case d.Store == "":
			emit("offloader_spool_free_bytes", gauge, o.free)
		default:
			emit("offloader_store_free_bytes", gauge, o.free, d.Store)
			emit("offloader_store_full_seconds", gauge, o.full, d.Store)
		}
	}
	emit("offloader_reload_failing", gauge, truth(c.s.failedReload() != nil))
	if beat := c.s.heartbeat(); beat != nil {
		emit("offloader_heartbeat_failing", gauge, truth(beat.Error != ""))
		if at, known := seconds(beat.Last); known {
			emit("offloader_heartbeat_last_success_timestamp_seconds", gauge, at)
		}
	}
	for _, j := range c.s.jobs() {
		for _, m := range jobMetrics {
			if v, known := m.value(j); known {
				emit(m.name, m.kind, v, j.Name)
			}
		}
	}
	for i := range sources {
		src := &sources[i]
		emit("offloader_stream_bytes_per_day", gauge, outlook.streamPerDay[src.Name], src.Name)
		for _, state := range states {
			emit("offloader_source_state", gauge, truth(src.State == state), src.Name, state)
		}
		for kind, n := range src.Errors {
			emit("offloader_link_errors_total", counter, float64(n), src.Name, string(kind))
		}
		for _, m := range sourceMetrics {
			if v, known := m.value(src); known {
				emit(m.name, m.kind, v, src.Name)
			}
		}
		for _, r := range src.Replicas {
			for _, state := range replicaStates {
				emit("offloader_replica_state", gauge, truth(r.State == state), src.Name, r.Address, state)
			}
			for _, m := range replicaMetrics {
				if v, known := m.value(attached{r, src.Durable}); known {
					emit(m.name, m.kind, v, src.Name, r.Address)
				}
			}
		}
		for _, store := range src.Stores {
			for _, m := range storeMetrics {
				if v, known := m.value(store); known {
					emit(m.name, m.kind, v, src.Name, store.Name)
				}
			}
		}
	}
}
