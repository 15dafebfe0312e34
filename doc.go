// Package dnslet is the root of the module. It holds no code, only the rules of the repository, written as tests: which package may
// know which (arch_test.go), and that the documents tell the truth. Start reading at ARCHITECTURE.md.
package dnslet
