package httpapi

import (
	"errors"
	"net/http"
)

// promote is an operator's word for a source that waits for its rebirth. It answers when that has come about,
// or can't. Only the socket takes it: what can be reached over a network changes nothing.
func (s *Server) promote(w http.ResponseWriter, r *http.Request) {
	if s.o.Promote == nil || !local(r) {
		http.NotFound(w, r)
		return
	}
	s.mayWait(w)
	switch said, err := s.o.Promote(r.Context(), r.PathValue("source"), r.PathValue("what")); {
	case errors.Is(err, ErrNoSource):
		answer(w, http.StatusNotFound, err.Error())
	case err != nil:
		answer(w, http.StatusConflict, err.Error())
	default:
		answer(w, http.StatusOK, said)
	}
}
