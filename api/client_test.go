package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Red when: an address that cannot be one is accepted, or one that can is refused.
func TestNewClientTakesAddresses(t *testing.T) {
	for addr, want := range map[string]string{
		"127.0.0.1:9553": "127.0.0.1:9553", "http://10.0.0.7:9553": "10.0.0.7:9553", "http://10.0.0.7:9553/v1": "10.0.0.7:9553", "[::1]:9553": "[::1]:9553",
		"node-7": "", "https://10.0.0.7:1": "", "http://": "", "": "", "http://[::1": "",
	} {
		c, err := NewClient(addr)
		switch {
		case want == "" && err == nil:
			t.Errorf("%q was accepted as %s", addr, c.Addr())
		case want != "" && (err != nil || c.Addr() != want):
			t.Errorf("%q: %v, want %s", addr, err, want)
		}
	}
}

// Red when: something else that answers at the address is taken for an agent, or an agent that reports a fault is not.
func TestWhatAnswersIsJudged(t *testing.T) {
	for _, c := range []struct {
		name        string
		serve       http.HandlerFunc
		unreachable bool
		says        string // empty: no error
	}{
		{"an agent", func(w http.ResponseWriter, _ *http.Request) {
			w.Write([]byte(`{"schemaVersion":1,"host":"n","new":1}`))
		}, false, ""},
		{"a newer agent", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{"schemaVersion":2}`)) }, false, "speaks schema 2"},
		{"a web server", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`<html>`)) }, true, "no dnslet agent"},
		{"another API", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{}`)) }, true, "no dnslet agent"},
		{"another path", func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }, true, "no /v1/status there"},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, false, "302"},
		{"a faulty agent", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 500) }, false, "500 Internal Server Error"},
	} {
		s := httptest.NewServer(c.serve)
		client, err := NewClient(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Status(t.Context())
		if errors.Is(err, ErrUnreachable) != c.unreachable || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
		s.Close()
	}
}

// Red when: the error of a dead address does not match ErrUnreachable, or repeats the URL.
func TestNobodyAnswers(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	client, err := NewClient(addr)
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Config(context.Background())
	if !errors.Is(err, ErrUnreachable) || strings.Count(err.Error(), addr) > 2 || strings.Contains(err.Error(), "Get ") {
		t.Errorf("nobody: %v", err)
	}
}

// Red when: the client reads an answer without a bound.
func TestAnswerIsBounded(t *testing.T) {
	var sent int
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		block := make([]byte, 1<<20)
		for sent = 0; sent < 64<<20; sent += len(block) {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}))
	client, err := NewClient(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	b, err := client.Config(t.Context())
	s.Close()
	if err != nil || len(b) != maxDocument {
		t.Errorf("read %d bytes (%v), want %d", len(b), err, maxDocument)
	}
}
