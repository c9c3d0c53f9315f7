package blackbox

import "time"

// What programs parse: the fields that JSON holds at least.

// Status is the answer of `offloader status --json`.
type Status struct {
	Version string         `json:"version"`
	Sources []SourceStatus `json:"sources"`
}

// SourceStatus is one source of a Status.
type SourceStatus struct {
	Name           string `json:"name"`
	State          string `json:"state"`
	Master         string `json:"master"`
	Timeline       string `json:"timeline"`
	ReplID         string `json:"replid"`
	Received       int64  `json:"received"`
	Durable        int64  `json:"durable"`
	FullResyncs    int64  `json:"full_resyncs"`
	PartialResyncs int64  `json:"partial_resyncs"`
	Rebirths       int64  `json:"rebirths"`
	Rebirth        *struct {
		Seconds float64 `json:"predicted_seconds"`
		Log     int64   `json:"log_bytes"`
	} `json:"rebirth"`
	Why          string     `json:"why"`
	Since        *time.Time `json:"restorable_since"`
	LastSnapshot *Place     `json:"last_snapshot"`
	Spool        struct {
		Bytes    int64 `json:"bytes"`
		MaxBytes int64 `json:"max_bytes"`
	} `json:"spool"`
	Stores []struct {
		Name       string    `json:"name"`
		Stored     int64     `json:"stored"`
		StoredTime time.Time `json:"stored_time"`
		LagBytes   int64     `json:"lag_bytes"`
		LagSeconds float64   `json:"lag_seconds"`
		Error      string    `json:"error"`
		Hint       string    `json:"hint"`
		Holes      []struct {
			Timeline string `json:"timeline"`
			From     int64  `json:"from"`
			To       int64  `json:"to"`
			Cause    string `json:"cause"`
		} `json:"holes"`
	} `json:"stores"`
	Error   string   `json:"error"`
	Hint    string   `json:"hint"`
	Suspect *Suspect `json:"suspect"`
	Known   *struct {
		Keys     int64    `json:"keys"`
		Offset   int64    `json:"offset"`
		By       string   `json:"by"`
		Weak     string   `json:"weak"`
		Replicas []string `json:"replicas"`
	} `json:"known"`

	Relay *struct {
		Listen string `json:"listen"`
		Error  string `json:"error"`
	} `json:"relay"`
	Replicas []struct {
		Address      string     `json:"address"`
		State        string     `json:"state"`
		Offset       int64      `json:"offset"`
		AckTime      *time.Time `json:"ack_time"`
		Version      string     `json:"version"`
		FullSyncs    int64      `json:"full_syncs"`
		PartialSyncs int64      `json:"partial_syncs"`
	} `json:"replicas"`
}

// Suspect is why a timeline is.
type Suspect struct {
	Timeline string `json:"timeline"`
	Cause    string `json:"cause"`
	Keys     Sizes  `json:"keys"`
	Before   string `json:"before"`
	Hint     string `json:"hint"`
}

// Sizes are how many keys there were, and are.
type Sizes struct {
	Before int64 `json:"before"`
	Now    int64 `json:"now"`
}

// Place is an offset and when it was received.
type Place struct {
	Offset int64     `json:"offset"`
	Time   time.Time `json:"time"`
}

// Timeline is one of `offloader list --json`.
type Timeline struct {
	Name      string     `json:"name"`
	Reason    string     `json:"reason"`
	Began     time.Time  `json:"began"`
	Ended     *time.Time `json:"ended"`
	Suspect   bool       `json:"suspect"`
	Snapshots []struct {
		Offset int64     `json:"offset"`
		Time   time.Time `json:"time"`
		Bytes  int64     `json:"bytes"`
		Method string    `json:"method"`
	} `json:"snapshots"`
	Windows []struct {
		From Place `json:"from"`
		To   Place `json:"to"`
	} `json:"windows"`
	Gaps []struct {
		From  Place  `json:"from"`
		To    Place  `json:"to"`
		Cause string `json:"cause"`
	} `json:"gaps"`

	// More than is promised.
	Why    string `json:"suspect_cause"`
	Keys   *Sizes `json:"suspect_keys"`
	Before string `json:"suspect_before"`
	Exempt string `json:"exempt"`
	ReplID string `json:"replid"`
	Parent *struct {
		Timeline string `json:"timeline"`
		Offset   int64  `json:"offset"`
	} `json:"parent"`
	Events []Event `json:"events"`
}

// Event is something that happened to a timeline.
type Event struct {
	Kind   string    `json:"kind"`
	Offset int64     `json:"offset"`
	Time   time.Time `json:"time"`
	To     int64     `json:"to"`
	Cause  string    `json:"cause"`
}

// Export is the answer of `offloader export --json`.
type Export struct {
	Source   string    `json:"source"`
	Timeline string    `json:"timeline"`
	Offset   int64     `json:"offset"`
	Time     time.Time `json:"time"`
	To       string    `json:"to"`
	Bytes    int64     `json:"bytes"`
	SHA256   string    `json:"sha256"`
	Keys     *int64    `json:"keys"`
}

// Job is what `offloader status --json` says of something that is done by the clock.
type Job struct {
	Name     string     `json:"name"`
	Schedule string     `json:"schedule"`
	Next     *time.Time `json:"next"`
	Last     *time.Time `json:"last"`
	Error    string     `json:"error"`
}

// Entry is one of `offloader log --json`.
type Entry struct {
	Timeline string    `json:"timeline"`
	Time     time.Time `json:"time"`
	Offset   int64     `json:"offset"` // to restore at for the state without it
	After    int64     `json:"after"`  // and for the state with it
	DB       int       `json:"db"`
	Command  string    `json:"command"`
}

// Report is the answer of `offloader restore --json`.
type Report struct {
	Source   string    `json:"source"`
	Timeline string    `json:"timeline"`
	Offset   int64     `json:"offset"`
	Time     time.Time `json:"time"`
	Snapshot int64     `json:"snapshot"`
	Segments int       `json:"segments"`
	Bytes    int64     `json:"bytes"`
	Keys     *int64    `json:"keys"`
	Expired  *int64    `json:"expired"`
	Output   string    `json:"output"`
	Start    string    `json:"start"`

	// More than is promised.
	KeysNote string `json:"keys_note"`
	Before   *struct {
		Time    time.Time `json:"time"`
		Offset  int64     `json:"offset"`
		DB      int       `json:"db"`
		Command string    `json:"command"`
		LeftOut int64     `json:"left_out"`
	} `json:"before"`
	Notes []string `json:"notes"`
}
