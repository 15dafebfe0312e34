// Package stubs holds the proof that real stub resolvers, in pods that know nothing of dnslet, hear the same from it as from cluster
// DNS. It has only tests; what they run is in testdata.
package stubs
