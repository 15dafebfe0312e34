package agent

import (
	"context"
	"errors"
	"time"

	"github.com/dnslet/dnslet/api"
	"github.com/dnslet/dnslet/config"
)

// follow applies what changes in the configuration file and in the resolv.confs that it names, until ctx ends.
func (a *Agent) follow(ctx context.Context) {
	err := a.watcher.Run(ctx, func(cfg config.Config, err error) { a.changed(cfg, err) })
	if err != nil && !errors.Is(err, context.Canceled) {
		a.log.Error("changes of the configuration are not followed any more", "err", err)
	}
}

// changed takes a new configuration, or notes why there is none. The old one serves on if anything is wrong.
func (a *Agent) changed(cfg config.Config, err error) {
	a.mu.Lock()
	serving := a.phase == api.Serving // before, the service manager still waits for READY, and must not hear it too early
	a.mu.Unlock()
	if serving {
		a.tell(a.notify.reloading())
	}
	if err == nil {
		err = a.applyConfig(cfg)
	}
	a.mu.Lock()
	if err != nil {
		a.load.OK, a.load.Error, a.load.ErrorAt = false, err.Error(), time.Now()
		a.load.Failures++
	} else {
		a.load.OK, a.load.Error, a.load.ErrorAt = true, "", time.Time{}
		a.load.Reloads++
		a.load.Loaded = time.Now()
		a.load.RestartFor = restartFor(a.first, cfg)
		a.load.Warnings = texts(cfg.Warnings())
		a.cfg = cfg
	}
	restart := a.load.RestartFor
	a.mu.Unlock()
	switch {
	case err != nil:
		a.log.Error("configuration refused, the one before is still in force", "file", a.opts.File, "err", err)
	case len(restart) > 0:
		a.log.Warn("configuration loaded, but some of it waits for a restart", "file", a.opts.File, "fields", restart)
	default:
		a.log.Info("configuration loaded", "file", a.opts.File)
	}
	if serving {
		a.tell(a.notify.ready("serving"))
	}
}

// applyConfig puts into force what of cfg can be changed without a restart. If it fails nothing has changed, but for the
// sources that are taken over, where the kernel has the last word.
func (a *Agent) applyConfig(cfg config.Config) error {
	effective := cfg
	// What needs a restart stays as it began: caps of zones that say nothing follow the cache that there is.
	effective.Listen, effective.Cache, effective.Admin = a.first.Listen, a.first.Cache, a.first.Admin
	effective.Intercept = a.first.Intercept
	effective.Intercept.Scope, effective.Intercept.Bypass = cfg.Intercept.Scope, cfg.Intercept.Bypass

	zones, err := a.upstreams.apply(effective, effective.Self(isLocal))
	if err != nil {
		return err
	}
	if err := a.server.SetLimits(fit(limitsOf(cfg.Limits), a.limits.files)); err != nil {
		return err
	}
	a.server.SetZones(zones)
	a.level.Set(cfg.Log.Level)
	a.warn(cfg)
	return a.take.change(effective, a.upstreams.clusterDNS())
}

// restartFor lists the fields in which running differs from next and that only a restart changes.
func restartFor(running, next config.Config) []string {
	var out []string
	for _, c := range config.Diff(running, next) {
		if c.Restart {
			out = append(out, c.Path)
		}
	}
	return out
}

func texts(ws []config.Warning) []string {
	var out []string
	for _, w := range ws {
		out = append(out, w.String())
	}
	return out
}
