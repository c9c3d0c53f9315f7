package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/offloader/offloader/internal/stream"
)

// Counted is how many keys a master has: the answer to POST /api/v1/sources/NAME/count.
type Counted struct {
	Timeline string           `json:"timeline"`
	Offset   stream.Offset    `json:"offset"`
	Time     stream.Time      `json:"time"`
	Keys     map[string]int64 `json:"keys"` // by database
}

// count has the master counted, and answers when that is noted in the archive. Only the socket takes it.
func (s *Server) count(w http.ResponseWriter, r *http.Request) {
	if s.o.Count == nil || !local(r) {
		http.NotFound(w, r)
		return
	}
	s.mayWait(w)
	counted, err := s.o.Count(r.Context(), r.PathValue("source"))
	switch {
	case errors.Is(err, ErrNoSource):
		answer(w, http.StatusNotFound, err.Error())
		return
	case err != nil:
		answer(w, http.StatusBadGateway, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(counted); err != nil {
		s.o.Logger.Debug("an answer could not be sent", "error", err)
	}
}

// AskCount asks the daemon that has the spool in the folder dir to count the master of a source.
func AskCount(ctx context.Context, dir, source string) (c Counted, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://offloader/api/v1/sources/"+url.PathEscape(source)+"/count", http.NoBody)
	if err != nil {
		return c, err
	}
	client := ClientIn(dir)
	client.Timeout = 0 // it takes until what the master has sent is durable
	response, err := client.Do(request)
	if err != nil {
		return c, err
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxRefusal))
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return c, cutOff(err)
	}
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return c, fmt.Errorf("%w: %q", ErrNoSource, source)
	default:
		return c, errors.New(strings.TrimSpace(string(text)))
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return c, fmt.Errorf("what the daemon said is not understood: %w", err)
	}
	return c, nil
}
