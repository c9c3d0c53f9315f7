package httpapi

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"

	"github.com/offloader/offloader/internal/source"
	"github.com/offloader/offloader/internal/stream"
)

// Snapshot is one that was taken on demand: the answer to POST /api/v1/sources/NAME/snapshot.
type Snapshot struct {
	Source   string        `json:"source"`
	Timeline string        `json:"timeline"`
	Offset   stream.Offset `json:"offset"`
	Time     stream.Time   `json:"time"`
	Method   string        `json:"method"`
	Stores   int           `json:"stores"` // all of them have it
	Took     float64       `json:"took_seconds"`
}

// ErrNoSource says that the daemon has no source of that name.
var ErrNoSource = errors.New("the daemon has no such source")

// snapshot has one taken. It answers when every store has it, however long that takes; whoever
// asked can leave, and it is broken off. Only the socket takes it: what can be reached over a network
// changes nothing.
func (s *Server) snapshot(w http.ResponseWriter, r *http.Request) {
	if s.o.Snapshot == nil || !local(r) {
		http.NotFound(w, r)
		return
	}
	s.mayWait(w)
	taken, err := s.o.Snapshot(r.Context(), r.PathValue("source"))
	switch {
	case errors.Is(err, ErrNoSource):
		answer(w, http.StatusNotFound, err.Error())
		return
	case errors.Is(err, source.ErrBusy):
		answer(w, http.StatusConflict, err.Error())
		return
	case err != nil:
		answer(w, http.StatusBadGateway, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(taken); err != nil {
		s.o.Logger.Debug("an answer could not be sent", "error", err)
	}
}

// local tells whether a request came over the socket in the spool, which has the spool's rights.
func local(r *http.Request) bool {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && addr.Network() == "unix"
}
