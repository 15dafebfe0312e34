package intercept

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// A heartbeat is this many rounds of probes: four may be late or lost before the kernel withdraws the agent.
	probesPerHeartbeat = 5
	// Routes are looked at after a change was announced, but not more often than this, however many change.
	lookPause = 200 * time.Millisecond
	// And our own route and tables from time to time in any case.
	lookEvery = 2 * time.Second
)

// Run asks the agent, as its clients do, five times per heartbeat, by UDP and by a new TCP connection for each listener, and so
// keeps it in service: the kernel gives it questions only while it sees the answers. It asks only while beat returns nil;
// beat must not block. After repeated lapses it waits before it asks again. It also puts back a route of ours that was
// deleted, and follows the default routes where the uplinks are not configured.
//
// It returns nil when ctx ends; the agent is then withdrawn within a heartbeat. After Withdraw it goes on without asking.
func (i *Interception) Run(ctx context.Context, beat func() error) error {
	p, err := newProber(&i.plan.cfg, i.plan.families, func(*target) { i.lapses.Add(1) })
	if err != nil {
		return fmt.Errorf("cannot run the prober: %w", err)
	}
	defer p.close()
	wake, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("cannot run the prober: %w", err)
	}
	defer unix.Close(wake)
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_, _ = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	})
	defer func() {
		if !stop() {
			<-woken // the descriptor must not be another's by then
		}
	}()
	watch, err := watchRoutes()
	if err != nil {
		return fmt.Errorf("cannot run the prober: %w", err)
	}
	defer unix.Close(watch)
	if err := i.loop(ctx, p, beat, wake, watch); err != nil {
		return fmt.Errorf("cannot run the prober: %w", err)
	}
	return nil
}

func (i *Interception) loop(ctx context.Context, p *prober, beat func() error, wake, watch int) error {
	interval := p.life / probesPerHeartbeat
	var next, look, looked time.Time
	changed := true // routes or links, since they were looked at
	for ctx.Err() == nil {
		now := time.Now()
		if !now.Before(look) {
			changed = i.look(changed) != nil // then it is tried again
			looked, look = now, now.Add(lookEvery)
		}
		if !now.Before(next) {
			p.tick(now, i.stance(beat(), p.trouble()))
			if next = next.Add(interval); next.Before(now) { // after a stop, or a busy CPU: no bunch of late rounds
				next = now.Add(interval)
			}
		}
		ready, err := p.wait(time.Until(earlier(next, look)), wake, watch)
		if err != nil {
			return err
		}
		if ready[1] {
			drain(watch)
			changed = true
			look = earlier(look, looked.Add(lookPause))
		}
	}
	return nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// stance notes what is wrong, for Status, and tells what the prober shall do.
func (i *Interception) stance(beat error, trouble string) stance {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.beat, i.trouble = beat, trouble
	switch {
	case i.withdrawn || i.tables == nil:
		return rest
	case beat != nil:
		return stuck
	}
	return ask
}

// look puts right what somebody else has changed, and keeps for Status what it could not.
func (i *Interception) look(changed bool) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return nil
	}
	n, err := i.routes.ensure()
	i.restored.Add(uint64(n))
	if i.tables != nil && i.kernel.lacks(featureOwner) && !i.withdrawn {
		err = errors.Join(err, i.restore())
	}
	if i.tables != nil && len(i.cfg.Uplinks) == 0 && changed {
		err = errors.Join(err, i.follow())
	}
	i.drift = err
	return err
}

// follow makes the interfaces of the default routes the uplinks. i.mu is held.
func (i *Interception) follow() error {
	found, err := i.routes.uplinks()
	if err != nil || slices.Equal(found, i.uplinks) {
		return err
	}
	cfg := i.cfg
	cfg.Uplinks = found
	if err := i.replace(&cfg, "uplinks"); err != nil {
		return fmt.Errorf("cannot set the uplinks: %w", err)
	}
	i.uplinks = found
	return nil
}

// restore installs the tables again when somebody has flushed them, which nobody can where they are owned. i.mu is held.
func (i *Interception) restore() error {
	found, err := i.leftovers()
	if err != nil || len(found) == len(i.tables) {
		return err
	}
	if err := i.install(found); err != nil {
		return fmt.Errorf("cannot restore the table: %w", err)
	}
	i.flushed.Add(1)
	return nil
}

// watchRoutes opens a socket on which the kernel announces changed routes and links. What is announced is not read: it says
// "look again", and so does an overrun.
func watchRoutes() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return 0, fmt.Errorf("cannot watch the routes: %w", err)
	}
	groups := uint32(1<<(unix.RTNLGRP_IPV4_ROUTE-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1) | 1<<(unix.RTNLGRP_LINK-1))
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return 0, fmt.Errorf("cannot watch the routes: %w", err)
	}
	return fd, nil
}

// drain empties the socket.
func drain(fd int) {
	var buf [4096]byte
	for {
		if _, _, err := unix.Recvfrom(fd, buf[:], unix.MSG_DONTWAIT); err != nil && err != unix.ENOBUFS && err != unix.EINTR {
			return
		}
	}
}
