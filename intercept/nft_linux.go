package intercept

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// conn is the one lasting nftables socket. The kernel ties an owned table to it, so it lives as long as the interception.
//
// The batches are our own, not those of github.com/google/nftables, whose encoding of expressions is used (encode_linux.go):
// that library sends no table flags, asks for an echo and an acknowledgement of every rule, which overflows the receive
// buffer of a socket that may not use SO_RCVBUFFORCE (ENOBUFS after the commit), and tells not which message was refused.
type conn struct {
	mu   sync.Mutex
	fd   int
	port uint32 // our address on netlink: what the kernel names as the owner
	seq  uint32
	buf  []byte
}

// readBuffer holds what one call returns: the kernel fills at most 32 KiB of a dump at a time.
const readBuffer = 64 << 10

func dialNetfilter() (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("cannot open nftables netlink: %w", err)
	}
	c := &conn{fd: fd, buf: make([]byte, readBuffer)}
	if err := c.bind(); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot open nftables netlink: %w", err)
	}
	return c, nil
}

func (c *conn) bind() error {
	if err := unix.Bind(c.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	name, err := unix.Getsockname(c.fd)
	if err != nil {
		return err
	}
	c.port = name.(*unix.SockaddrNetlink).Pid
	// When a whole batch is refused there is one error for each message. They must fit without SO_RCVBUFFORCE, so they
	// come without a copy of the message. Larger buffers are granted up to net.core.rmem_max and wmem_max; what a plan may
	// hold (validate) fits into their defaults.
	if err := unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1); err != nil {
		return err
	}
	_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20)
	_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20)
	return nil
}

func (c *conn) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return nil
	}
	fd := c.fd
	c.fd = -1
	return unix.Close(fd)
}

// refusal is the kernel's answer to one message of a batch. Nothing of the batch is in force.
type refusal struct {
	about string // the message, for people
	needs feature
	errno unix.Errno
}

func (r *refusal) Error() string { return r.about + ": " + r.errno.Error() }
func (r *refusal) Unwrap() error { return r.errno }

// batch is one transaction: all of it is in force from one packet to the next, or nothing.
type batch struct {
	messages []message
	setID    uint32
}

type message struct {
	typ    uint16
	flags  uint16
	family byte
	attrs  []byte
	about  string
	needs  feature
}

func (b *batch) add(m message) { b.messages = append(b.messages, m) }

// transact sends the batch and returns the first refusal in it, if any. Netlink is synchronous: when the send returns, the
// kernel has decided and its replies are in the socket.
func (c *conn) transact(b *batch) error {
	if len(b.messages) == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	first := c.seq + 1
	out := c.frame(nil, unix.NFNL_MSG_BATCH_BEGIN, unix.NLM_F_REQUEST, 0, unix.NFNL_SUBSYS_NFTABLES, nil)
	for i, m := range b.messages {
		flags := m.flags | unix.NLM_F_REQUEST
		if i == len(b.messages)-1 {
			flags |= unix.NLM_F_ACK
		}
		out = c.frame(out, unix.NFNL_SUBSYS_NFTABLES<<8|m.typ, flags, m.family, 0, m.attrs)
	}
	last := c.seq
	out = c.frame(out, unix.NFNL_MSG_BATCH_END, unix.NLM_F_REQUEST, 0, unix.NFNL_SUBSYS_NFTABLES, nil)
	if err := unix.Sendto(c.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("cannot send to nftables: %w", err)
	}
	refused, acked, err := c.verdicts(first, last)
	switch {
	case err != nil:
		return err
	case refused == nil && !acked:
		return errors.New("nftables did not acknowledge the transaction")
	case refused == nil:
		return nil
	}
	r := &refusal{about: "transaction", errno: refused.errno}
	if i := int(refused.seq) - int(first) - 1; i >= 0 && i < len(b.messages) {
		r.about, r.needs = b.messages[i].about, b.messages[i].needs
	}
	return r
}

type seqErrno struct {
	seq   uint32
	errno unix.Errno
}

// verdicts reads all that the kernel replied: the earliest refusal, and whether the last message was acknowledged.
func (c *conn) verdicts(first, last uint32) (*seqErrno, bool, error) {
	var refused *seqErrno
	acked, overrun := false, false
	for {
		n, _, err := unix.Recvfrom(c.fd, c.buf, unix.MSG_DONTWAIT)
		switch err {
		case nil:
		case unix.EINTR:
			continue
		case unix.ENOBUFS: // replies were lost, the earliest ones are still here
			overrun = true
			continue
		case unix.EAGAIN:
			if overrun && refused == nil && !acked {
				return nil, false, fmt.Errorf("cannot read from nftables: %w", unix.ENOBUFS)
			}
			return refused, acked, nil
		default:
			return nil, false, fmt.Errorf("cannot read from nftables: %w", err)
		}
		for h, body := range frames(c.buf[:n]) {
			if h.Type != unix.NLMSG_ERROR || len(body) < 4 || h.Seq < first || h.Seq > last+1 {
				continue
			}
			errno := unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
			switch {
			case errno == 0:
				acked = acked || h.Seq == last
			case refused == nil || h.Seq < refused.seq:
				refused = &seqErrno{h.Seq, errno}
			}
		}
	}
}

// frame appends one netlink message with an nfnetlink header and takes the next sequence number.
func (c *conn) frame(out []byte, typ, flags uint16, family byte, resource uint16, attrs []byte) []byte {
	c.seq++
	out = binary.NativeEndian.AppendUint32(out, uint32(unix.SizeofNlMsghdr+4+len(attrs)))
	out = binary.NativeEndian.AppendUint16(out, typ)
	out = binary.NativeEndian.AppendUint16(out, flags)
	out = binary.NativeEndian.AppendUint32(out, c.seq)
	out = binary.NativeEndian.AppendUint32(out, c.port)
	out = append(out, family, unix.NFNETLINK_V0)
	out = binary.BigEndian.AppendUint16(out, resource)
	return append(out, attrs...) // attributes are padded to 4 already
}

// frames walks the netlink messages in one datagram: header and what follows it.
func frames(b []byte) func(yield func(unix.NlMsghdr, []byte) bool) {
	return func(yield func(unix.NlMsghdr, []byte) bool) {
		for len(b) >= unix.SizeofNlMsghdr {
			h := unix.NlMsghdr{
				Len: binary.NativeEndian.Uint32(b), Type: binary.NativeEndian.Uint16(b[4:]), Flags: binary.NativeEndian.Uint16(b[6:]),
				Seq: binary.NativeEndian.Uint32(b[8:]), Pid: binary.NativeEndian.Uint32(b[12:]),
			}
			if h.Len < unix.SizeofNlMsghdr || int(h.Len) > len(b) {
				return
			}
			if !yield(h, b[unix.SizeofNlMsghdr:h.Len]) {
				return
			}
			b = b[min(len(b), int(h.Len+3)&^3):]
		}
	}
}

// attributes walks netlink attributes: type without flags, and data.
func attributes(b []byte) func(yield func(uint16, []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			n := int(binary.NativeEndian.Uint16(b))
			if n < 4 || n > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[4:n]) {
				return
			}
			b = b[min(len(b), (n+3)&^3):]
		}
	}
}

// dump asks for all objects of a kind and calls each with the family and attributes of one. It starts again when the
// ruleset changed under it, so each may see objects twice: it is called on the last, whole round only.
func (c *conn) dump(typ uint16, family byte, attrs []byte, each func(family byte, attrs []byte)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range 16 {
		var found [][]byte
		whole, err := c.dumpOnce(typ, family, attrs, &found)
		if err != nil {
			return err
		}
		if whole {
			for _, body := range found {
				each(body[0], body[4:])
			}
			return nil
		}
	}
	return errors.New("the ruleset does not stop changing")
}

func (c *conn) dumpOnce(typ uint16, family byte, attrs []byte, found *[][]byte) (whole bool, err error) {
	out := c.frame(nil, unix.NFNL_SUBSYS_NFTABLES<<8|typ, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, family, 0, attrs)
	seq := c.seq
	if err := unix.Sendto(c.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return false, fmt.Errorf("cannot send to nftables: %w", err)
	}
	whole = true
	for {
		n, _, err := unix.Recvfrom(c.fd, c.buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("cannot read from nftables: %w", err)
		}
		for h, body := range frames(c.buf[:n]) {
			if h.Seq != seq {
				continue
			}
			whole = whole && h.Flags&unix.NLM_F_DUMP_INTR == 0
			switch {
			case h.Type == unix.NLMSG_DONE:
				return whole, nil
			case h.Type == unix.NLMSG_ERROR && len(body) >= 4:
				errno := unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
				if errno == unix.EINTR || errno == unix.EAGAIN {
					return false, nil
				}
				return false, errno
			case len(body) >= 4:
				*found = append(*found, slices.Clone(body))
			}
		}
	}
}
