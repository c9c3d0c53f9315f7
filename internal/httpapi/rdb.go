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
	"time"

	"github.com/offloader/offloader/internal/export"
)

// The answer to POST /api/v1/sources/NAME/rdb is the dataset itself. Where it stands is known
// before it comes, and whether all of it came only behind it.
const (
	pointHeader = "Offloader-Point"
	endTrailer  = "Offloader-End"
	whole       = "whole" // or else what went wrong
)

// rdb passes a source's dataset through as it comes from the master, for as long as that takes;
// whoever asked can leave, and it is broken off. Only the socket gives it: what can be reached over
// a network tells nothing of the data.
func (s *Server) rdb(w http.ResponseWriter, r *http.Request) {
	if s.o.RDB == nil || !local(r) {
		http.NotFound(w, r)
		return
	}
	s.mayWait(w)
	began := false
	err := s.o.RDB(r.Context(), r.PathValue("source"), func(p export.Point, rdb io.Reader) error {
		at, err := json.Marshal(p)
		if err != nil {
			return err
		}
		began = true
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set(pointHeader, string(at))
		w.Header().Set("Trailer", endTrailer)
		_, err = io.Copy(w, rdb)
		return err
	})
	switch {
	case began && err == nil:
		w.Header().Set(endTrailer, whole)
	case began:
		w.Header().Set(endTrailer, strings.Join(strings.Fields(err.Error()), " "))
	case errors.Is(err, ErrNoSource):
		answer(w, http.StatusNotFound, err.Error())
	default:
		answer(w, http.StatusBadGateway, err.Error())
	}
}

// mayWait takes the bounds on time from a request that takes as long as it takes.
func (s *Server) mayWait(w http.ResponseWriter) {
	c := http.NewResponseController(w)
	if err := errors.Join(c.SetReadDeadline(time.Time{}), c.SetWriteDeadline(time.Time{})); err != nil {
		s.o.Logger.Debug("a request may not wait", "error", err)
	}
}

// maxRefusal bounds what is read of an answer that is no dataset.
const maxRefusal = 64 << 10

// AskRDB asks the daemon that has the spool in the folder dir for the dataset of a source as it is
// now. What is read ends in io.EOF only where all of it came.
func AskRDB(ctx context.Context, dir, source string) (export.Point, io.ReadCloser, error) {
	var p export.Point
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://offloader/api/v1/sources/"+url.PathEscape(source)+"/rdb", http.NoBody)
	if err != nil {
		return p, nil, err
	}
	client := ClientIn(dir)
	client.Timeout = 0 // it takes as long as it takes
	response, err := client.Do(request)
	if err != nil {
		return p, nil, err
	}
	if response.StatusCode == http.StatusOK {
		if err := json.Unmarshal([]byte(response.Header.Get(pointHeader)), &p); err != nil {
			err = fmt.Errorf("what the daemon said is not understood: %w", err)
			return p, nil, errors.Join(err, response.Body.Close())
		}
		return p, &dataset{response}, nil
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxRefusal))
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return p, nil, cutOff(err)
	}
	if response.StatusCode == http.StatusNotFound {
		return p, nil, fmt.Errorf("%w: %q", ErrNoSource, source)
	}
	return p, nil, errors.New(strings.TrimSpace(string(text)))
}

func cutOff(err error) error { return fmt.Errorf("the daemon has left before it was done: %w", err) }

// dataset is an answer's body.
type dataset struct{ response *http.Response }

func (d *dataset) Read(p []byte) (int, error) {
	n, err := d.response.Body.Read(p)
	switch end := d.response.Trailer.Get(endTrailer); {
	case err == nil:
	case err != io.EOF:
		err = cutOff(err)
	case end == "":
		err = cutOff(io.ErrUnexpectedEOF)
	case end != whole:
		err = errors.New(end)
	}
	return n, err
}

func (d *dataset) Close() error { return d.response.Body.Close() }
