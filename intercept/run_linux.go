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
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
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
	// Each for itself: the kernel lets a change of routes wait while anybody else changes links, for seconds on a busy node,
	// and the heartbeat must not wait with it.
	kept := make(chan error, 1)
	go func() {
		defer cancel()
		kept <- i.keep(ctx, wake, watch)
	}()
	err = i.loop(ctx, p, beat, wake)
	cancel()
	if err := errors.Join(err, <-kept); err != nil {
		return fmt.Errorf("cannot run the prober: %w", err)
	}
	return nil
}

// loop is the heartbeat. It waits for nobody: not for i.mu, not for an answer of the kernel.
func (i *Interception) loop(ctx context.Context, p *prober, beat func() error, wake int) error {
	interval := p.life / probesPerHeartbeat
	var next time.Time
	for ctx.Err() == nil {
		if now := time.Now(); !now.Before(next) {
			p.tick(now, i.stance(beat(), p.trouble()))
			if next = next.Add(interval); next.Before(now) { // after a stop, or a busy CPU: no bunch of late rounds
				next = now.Add(interval)
			}
		}
		if err := p.wait(time.Until(next), wake); err != nil {
			return err
		}
	}
	return nil
}

// keep looks after routes, uplinks and tables until wake is readable.
func (i *Interception) keep(ctx context.Context, wake, watch int) error {
	changed := true // routes or links, since they were looked at
	for ctx.Err() == nil {
		looked := time.Now()
		changed = i.look(changed) != nil // then it is tried again
		if err := await(lookEvery, wake, watch); err != nil {
			return err
		}
		if err := await(time.Until(looked.Add(lookPause)), wake); err != nil {
			return err
		}
		changed = drain(watch) || changed
	}
	return nil
}

// stance notes what is wrong, for Status, and tells what the prober shall do.
func (i *Interception) stance(beat error, trouble string) stance {
	i.pulse.mu.Lock()
	i.pulse.beat, i.pulse.trouble = beat, trouble
	i.pulse.mu.Unlock()
	switch {
	case !i.pulse.wanted.Load():
		return rest
	case beat != nil:
		return stuck
	}
	return ask
}

// look puts right what somebody else has changed, and keeps for Status what it could not. It asks for routes without i.mu.
func (i *Interception) look(changed bool) error {
	n, err := i.routes.ensure()
	i.restored.Add(uint64(n))
	var uplinks []string
	follow := changed && len(i.plan.cfg.Uplinks) == 0
	if follow {
		var failed error
		uplinks, failed = i.routes.uplinks()
		follow, err = failed == nil, errors.Join(err, failed)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return nil
	}
	if i.tables != nil && i.kernel.lacks(featureOwner) && !i.withdrawn {
		err = errors.Join(err, i.restore())
	}
	if i.tables != nil && follow {
		err = errors.Join(err, i.follow(uplinks))
	}
	i.drift = err
	return err
}

// follow makes the interfaces of the default routes the uplinks. i.mu is held.
func (i *Interception) follow(found []string) error {
	if slices.Equal(found, i.uplinks) {
		return nil
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

// drain empties the socket and tells whether anything was in it.
func drain(fd int) (announced bool) {
	var buf [4096]byte
	for {
		if _, _, err := unix.Recvfrom(fd, buf[:], unix.MSG_DONTWAIT); err != nil && err != unix.ENOBUFS && err != unix.EINTR {
			return announced
		}
		announced = true
	}
}

// await sleeps until one of the descriptors is readable, at most for timeout.
func await(timeout time.Duration, fds ...int) error {
	var set []unix.PollFd
	for _, fd := range fds {
		set = append(set, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	if _, err := unix.Poll(set, milliseconds(timeout)); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("cannot poll: %w", err)
	}
	return nil
}

// milliseconds rounds up, so that nobody wakes before the time; a time that has passed is 0, not the -1 that poll takes for ever.
func milliseconds(d time.Duration) int {
	return int(max(0, (d+time.Millisecond-1)/time.Millisecond))
}
