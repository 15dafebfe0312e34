package upstream

import (
	"sync/atomic"

	"github.com/dnslet/dnslet/wire"
)

// attempt is one question to one endpoint, by one transport. Whoever makes it fills in the first part and hands it to a
// transport, which reports what comes of it to the group: once, but for late answers. The group fills in the second
// part and passes the attempt on to events; from then on it belongs to the receiver.
type attempt struct {
	ep       *endpoint
	id       uint16
	question []byte // name, type, class as asked; shared and never written
	sent     int64  // the group's clock
	purpose  purpose
	byTCP    bool
	query    []byte          // as sent, TCP only
	redialed bool            // asked again because a kept connection had been closed
	events   chan<- *attempt // nil: nobody waits. Its capacity suffices for every attempt
	socket   socket          // UDP only

	told  atomic.Bool
	resp  []byte // a response that matches and is well formed; nil if err
	err   error
	kind  wire.Kind
	short bool // truncated
	rtt   int64
	room  [512]byte // holds resp where it fits, as nearly every answer does, and saves an allocation

	// Of the exchange that waits.
	over    bool // told, or given up
	overdue bool
}

// purpose is why an attempt is made.
type purpose uint8

const (
	forClient purpose = iota
	forSample         // a copy of a client's question, for the latency of an endpoint that gets none
	forHealth         // a probe
)
