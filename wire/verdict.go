package wire

// Verdict is what Query.Parse thinks of a request. The zero value is Drop, so
// that a Query which was never parsed is never answered.
type Verdict uint8

// Verdicts. All but Accept and Drop are answered by AppendError with the
// verdict's RCode.
const (
	// Drop: not to be answered at all, as an answer could be answered: a
	// response (QR=1), or less than a header.
	Drop Verdict = iota
	// Accept: a question that can be answered or forwarded; see Cacheable.
	Accept
	// FormErr: malformed (RFC 1035 section 4.1.1; RFC 9619 for QDCOUNT).
	FormErr
	// NotImp: an opcode other than QUERY, or a type nobody implements.
	NotImp
	// Refused: zone transfers and CHAOS.
	Refused
	// BadVers: an EDNS version other than 0 (RFC 6891 section 6.1.3).
	BadVers
	// NotAuth: signed with a key that cannot be known here (RFC 8945
	// section 5.2.1).
	NotAuth
)

// String returns a word for logs and metrics.
func (v Verdict) String() string {
	switch v {
	case Drop:
		return "drop"
	case Accept:
		return "accept"
	case FormErr:
		return "formerr"
	case NotImp:
		return "notimp"
	case Refused:
		return "refused"
	case BadVers:
		return "badvers"
	case NotAuth:
		return "notauth"
	}
	return "unknown"
}

// RCode returns the response code that goes with the verdict: NOERROR for
// Accept, SERVFAIL for Drop, which must not be answered anyway.
func (v Verdict) RCode() RCode {
	switch v {
	case Accept:
		return RCodeNoError
	case FormErr:
		return RCodeFormErr
	case NotImp:
		return RCodeNotImp
	case Refused:
		return RCodeRefused
	case BadVers:
		return RCodeBadVers
	case NotAuth:
		return RCodeNotAuth
	}
	return RCodeServFail
}
