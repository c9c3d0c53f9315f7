package httpapi

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/relay"
	"github.com/offloader/offloader/internal/source"
	"github.com/offloader/offloader/internal/stream"
)

const (
	gauge   = prometheus.GaugeValue
	counter = prometheus.CounterValue
)

// states are a source's, and replicaStates those of a replica of its relay.
var (
	states        = []string{"connecting", "syncing", "streaming", "waiting"}
	replicaStates = []string{relay.Copying, relay.Online, relay.Away}
)

// daemonMetrics are those that Collect fills in itself.
var daemonMetrics = []struct {
	name, help string
	labels     []string
}{
	{"offloader_build_info", "1, with what the program was made of.", []string{"version", "commit", "goversion"}},
	{"offloader_spool_bytes", "Bytes of stream in the spool, of all sources.", nil},
	{"offloader_spool_max_bytes", "Bytes of stream that the spool may hold.", nil},
	{"offloader_spool_free_bytes", "Bytes free on the spool's disk.", nil},
	{"offloader_spool_full_seconds", "Time until the spool or its disk is full, at the rate of the last hour; +Inf while neither grows.", nil},
	{"offloader_store_free_bytes", "Bytes free on the store's disk.", []string{"store"}},
	{"offloader_store_full_seconds", "Time until the store's disk is full, at the rate of the last hour; +Inf while it does not fill.", []string{"store"}},
	{"offloader_source_state", "1 for the state that the source is in, 0 for the others.", []string{"source", "state"}},
	{"offloader_replica_state", "1 for the state that a replica of the relay is in, 0 for the others.", []string{"source", "replica", "state"}},
	{"offloader_stream_bytes_per_day", "Bytes of stream a day, at the rate of the last hour.", []string{"source"}},
	{"offloader_link_errors_total", "Connections to the master that failed or broke, by kind.", []string{"source", "kind"}},
	{"offloader_reload_failing", "1 where the last reload found the configuration wrong, so that the one before stays in force.", nil},
	{"offloader_heartbeat_last_success_timestamp_seconds", "When the heartbeat URL was last called with success.", nil},
	{"offloader_heartbeat_failing", "1 where the last call of the heartbeat URL failed.", nil},
}

// metric is one that is read from what it is about.
type metric[T any] struct {
	name, help string
	kind       prometheus.ValueType
	value      func(T) (v float64, known bool) // nothing is shown of what is not known
}

// sourceMetrics have the label source.
var sourceMetrics = []metric[*Source]{
	{"offloader_source_ended", "1 where archiving has ended in an error, and is tried again.", gauge,
		func(s *Source) (float64, bool) { return truth(s.Ended != ""), true }},
	{"offloader_received_offset_bytes", "Offset up to which the stream was received.", gauge,
		func(s *Source) (float64, bool) { return float64(s.Received), s.Timeline != "" }},
	{"offloader_received_timestamp_seconds", "When the last byte or sign of life was received.", gauge,
		func(s *Source) (float64, bool) { return seconds(s.ReceivedTime) }},
	{"offloader_durable_offset_bytes", "Offset up to which the stream is durable in the spool.", gauge,
		func(s *Source) (float64, bool) { return float64(s.Durable), s.Timeline != "" }},
	{"offloader_durable_timestamp_seconds", "The last moment that can be restored.", gauge,
		func(s *Source) (float64, bool) { return seconds(s.DurableTime) }},
	{"offloader_acked_offset_bytes", "Offset that was last acknowledged to the master.", gauge,
		func(s *Source) (float64, bool) { return float64(s.Acked), true }},
	{"offloader_not_durable_bytes", "Bytes received that are not durable yet.", gauge,
		func(s *Source) (float64, bool) { return float64(s.NotDurable), true }},
	{"offloader_not_durable_seconds", "How long they have been waiting.", gauge,
		func(s *Source) (float64, bool) { return s.NotDurableSecs, true }},
	{"offloader_restorable_since_timestamp_seconds", "Every moment from here to the durable one can be restored.", gauge,
		func(s *Source) (float64, bool) { return seconds(s.Since) }},
	{"offloader_last_snapshot_offset_bytes", "Offset of the newest snapshot.", gauge,
		func(s *Source) (float64, bool) {
			return ofSnapshot(s, func(m *source.Moment) float64 { return float64(m.Offset) })
		}},
	{"offloader_last_snapshot_timestamp_seconds", "The moment of the newest snapshot.", gauge,
		func(s *Source) (float64, bool) {
			return ofSnapshot(s, func(m *source.Moment) float64 { return float64(m.Time) / 1000 })
		}},
	{"offloader_source_suspect", "1 while the newest timeline is suspect: the master seems to have forgotten what it held.", gauge,
		func(s *Source) (float64, bool) { return truth(s.Suspect != nil), true }},
	{"offloader_suspect_before_keys", "Keys that the master was to hold; only while the newest timeline is suspect.", gauge,
		func(s *Source) (float64, bool) {
			return ofSuspect(s, func(k archive.Sizes) int64 { return k.Before })
		}},
	{"offloader_suspect_keys", "Keys that it came back with; only while the newest timeline is suspect.", gauge,
		func(s *Source) (float64, bool) { return ofSuspect(s, func(k archive.Sizes) int64 { return k.Now }) }},
	{"offloader_known_keys", "Keys that the master was last known to hold.", gauge,
		func(s *Source) (float64, bool) {
			return ofKnown(s, func(k *source.Known) float64 { return float64(k.Keys) })
		}},
	{"offloader_known_keys_timestamp_seconds", "When that was so.", gauge,
		func(s *Source) (float64, bool) {
			return ofKnown(s, func(k *source.Known) float64 { return float64(k.Time) / 1000 })
		}},
	{"offloader_boot_findings", "1 where the last scratch engine since the start held another number of keys than the master, 0 where as many.", gauge,
		func(s *Source) (float64, bool) {
			if s.LastBoot == nil || s.LastBoot.Error != "" {
				return 0, false
			}
			return float64(s.LastBoot.Findings), true
		}},
	{"offloader_full_resyncs_total", "Full resyncs begun, a fork of the master each.", counter,
		func(s *Source) (float64, bool) { return float64(s.FullResyncs), true }},
	{"offloader_partial_resyncs_total", "Connections that went on where the one before had ended.", counter,
		func(s *Source) (float64, bool) { return float64(s.PartialResyncs), true }},
	{"offloader_rebirths_total", "Times that the master came back as our replica, got its data and was promoted.", counter,
		func(s *Source) (float64, bool) { return float64(s.Rebirths), true }},
	{"offloader_rebirth_waiting", "1 where the master has come back as our replica and is not promoted.", gauge,
		func(s *Source) (float64, bool) {
			return truth(strings.HasPrefix(s.Why, "for its rebirth")), s.Relay != nil
		}},
	{"offloader_rebirth_predicted_seconds", "What it would take to bring the master back now, from its start to its first write.", gauge,
		func(s *Source) (float64, bool) {
			if s.Rebirth == nil {
				return 0, false
			}
			return s.Rebirth.Seconds, true
		}},
	{"offloader_relay_failing", "1 while the relay can't be opened.", gauge,
		func(s *Source) (float64, bool) { return truth(s.Relay != nil && s.Relay.Error != ""), s.Relay != nil }},
	{"offloader_next_full_resync_timestamp_seconds", "When the budget allows another full resync.", gauge,
		func(s *Source) (float64, bool) { return seconds(s.NextFullResync) }},
	{"offloader_full_sync_received_bytes", "Bytes of the RDB that arrives; only while one does.", gauge,
		func(s *Source) (float64, bool) {
			return ofTransfer(s, func(t *source.Transfer) float64 { return float64(t.Bytes) })
		}},
	{"offloader_full_sync_expected_bytes", "Size of the RDB that arrives; only where the master told it.", gauge,
		func(s *Source) (float64, bool) {
			return ofTransfer(s, func(t *source.Transfer) float64 { return float64(t.Total) })
		}},
	{"offloader_full_sync_left_seconds", "How long the RDB will take still; only where that can be told.", gauge,
		func(s *Source) (float64, bool) {
			return ofTransfer(s, func(t *source.Transfer) float64 { return t.LeftSeconds })
		}},
}

// attached is a replica of a source's relay, with how far the source is.
type attached struct {
	relay.Replica
	durable stream.Offset
}

// replicaMetrics have the labels source and replica.
var replicaMetrics = []metric[attached]{
	{"offloader_replica_offset_bytes", "Offset that the replica has acknowledged.", gauge,
		func(r attached) (float64, bool) { return float64(r.Offset), r.AckTime != 0 }},
	{"offloader_replica_lag_bytes", "Durable bytes that it has not acknowledged.", gauge,
		func(r attached) (float64, bool) { return float64(max(0, r.durable-r.Offset)), r.AckTime != 0 }},
	{"offloader_replica_acked_timestamp_seconds", "When it last acknowledged anything.", gauge,
		func(r attached) (float64, bool) { return seconds(r.AckTime) }},
	{"offloader_replica_full_syncs_total", "Full copies that it got.", counter,
		func(r attached) (float64, bool) { return float64(r.FullSyncs), true }},
	{"offloader_replica_partial_syncs_total", "Times that it went on where it was.", counter,
		func(r attached) (float64, bool) { return float64(r.PartialSyncs), true }},
	{"offloader_replica_sent_bytes_total", "Bytes that were sent to it, of snapshots and of the stream.", counter,
		func(r attached) (float64, bool) { return float64(r.SentBytes), true }},
}

// storeMetrics have the labels source and store.
var storeMetrics = []metric[source.StoreStatus]{
	{"offloader_stored_offset_bytes", "Offset up to which the store has the stream.", gauge,
		func(s source.StoreStatus) (float64, bool) { return float64(s.Stored), s.StoredTime != 0 }},
	{"offloader_stored_timestamp_seconds", "When the last byte that the store has was received.", gauge,
		func(s source.StoreStatus) (float64, bool) { return seconds(s.StoredTime) }},
	{"offloader_store_lag_bytes", "Durable bytes that the store lacks.", gauge,
		func(s source.StoreStatus) (float64, bool) { return float64(s.LagBytes), true }},
	{"offloader_store_lag_seconds", "How long it has lacked them.", gauge,
		func(s source.StoreStatus) (float64, bool) { return s.LagSeconds, true }},
	{"offloader_store_snapshot_timestamp_seconds", "The moment of the newest snapshot that the store has.", gauge,
		func(s source.StoreStatus) (float64, bool) { return seconds(s.Held.Snapshot) }},
	{"offloader_store_verified_timestamp_seconds", "When all that the store has was last read again, and was as it had been written.", gauge,
		func(s source.StoreStatus) (float64, bool) { return seconds(s.Held.Verified) }},
	{"offloader_store_booted_timestamp_seconds", "When a scratch engine that replayed the archive last held what the master had.", gauge,
		func(s source.StoreStatus) (float64, bool) { return seconds(s.Held.Booted) }},
	{"offloader_store_verify_findings", "What the last verify since the start found wrong.", gauge,
		func(s source.StoreStatus) (float64, bool) {
			if s.LastVerify == nil {
				return 0, false
			}
			return float64(s.LastVerify.Findings), true
		}},
	{"offloader_store_failing", "1 while the store can't be written.", gauge,
		func(s source.StoreStatus) (float64, bool) { return truth(s.Error != ""), true }},
	{"offloader_store_errors_total", "Times that the store could not be written.", counter,
		func(s source.StoreStatus) (float64, bool) { return float64(s.Errors), true }},
	{"offloader_store_segments_total", "Segments stored, compacted ones too.", counter,
		func(s source.StoreStatus) (float64, bool) { return float64(s.Segments), true }},
	{"offloader_store_stream_bytes_total", "Bytes of stream in those segments, before compression.", counter,
		func(s source.StoreStatus) (float64, bool) { return float64(s.StreamBytes), true }},
}

// jobMetrics have the label job.
var jobMetrics = []metric[Job]{
	{"offloader_job_last_success_timestamp_seconds", "When the last run ended that went well.", gauge,
		func(j Job) (float64, bool) { return seconds(j.LastSuccess) }},
	{"offloader_job_failing", "1 where the last run failed.", gauge,
		func(j Job) (float64, bool) { return truth(j.Error != ""), true }},
	{"offloader_job_duration_seconds", "How long the last run took.", gauge,
		func(j Job) (float64, bool) { return j.TookSeconds, j.Last != 0 }},
	{"offloader_job_next_timestamp_seconds", "When it runs next.", gauge,
		func(j Job) (float64, bool) { return seconds(j.Next) }},
}

// seconds is a time as Prometheus wants it.
func seconds(t stream.Time) (float64, bool) { return float64(t) / 1000, t != 0 }

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func ofSuspect(s *Source, of func(archive.Sizes) int64) (float64, bool) {
	if s.Suspect == nil {
		return 0, false
	}
	n := of(s.Suspect.Keys)
	return float64(n), n >= 0
}

func ofKnown(s *Source, of func(*source.Known) float64) (float64, bool) {
	if s.Known == nil {
		return 0, false
	}
	return of(s.Known), true
}

func ofSnapshot(s *Source, value func(*source.Moment) float64) (float64, bool) {
	if s.LastSnapshot == nil {
		return 0, false
	}
	return value(s.LastSnapshot), true
}

// ofTransfer is about an RDB that arrives. -1 stands for what can't be told.
func ofTransfer(s *Source, value func(*source.Transfer) float64) (float64, bool) {
	if s.Transfer == nil {
		return 0, false
	}
	v := value(s.Transfer)
	return v, v >= 0
}
