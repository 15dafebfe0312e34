// Package api is what a dnslet agent says about itself over HTTP: the documents under /v1/ as Go types, and the client
// that reads them. The command line and the one-page view live on this package alone.
//
// Documents carry a schemaVersion and only grow: a field is never renamed, never removed and never changes its unit.
// Times are RFC 3339, durations are seconds as floating point (the field name ends in Seconds), sizes are bytes.
//
// It does not serve anything (package admin does), does not know how the agent works, and does not print.
package api

// SchemaVersion is the schemaVersion of every document under /v1/. It changes only when a reader of the old version
// would misread the new one.
const SchemaVersion = 1

// Paths of the agent's local HTTP interface.
const (
	PathLive    = "/livez"
	PathReady   = "/readyz"
	PathMetrics = "/metrics"
	PathStatus  = "/v1/status"
	PathConfig  = "/v1/config"
)

// DefaultAddr is where an agent serves HTTP unless it is told otherwise: never 8080, nor node-cache's 9253 and 9353.
const DefaultAddr = "127.0.0.1:9553"
