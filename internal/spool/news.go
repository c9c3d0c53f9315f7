package spool

import "sync"

// news tells that something of a source became durable, or that a timeline began, goes on under
// another id or was closed. The link has a channel of its own; any number of others wait for the
// next news only.
type news struct {
	link chan struct{} // capacity 1

	mu   sync.Mutex
	next chan struct{} // closed at the next news; nil while nobody waits
}

func newNews() *news { return &news{link: make(chan struct{}, 1)} }

func (n *news) tell() {
	signal(n.link)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.next != nil {
		close(n.next)
		n.next = nil
	}
}

func (n *news) wait() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.next == nil {
		n.next = make(chan struct{})
	}
	return n.next
}
