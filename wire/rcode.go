package wire

import "strconv"

// RCode is a response code with the eight bits that an OPT adds (RFC 6891
// section 6.1.3): 12 bits in all.
type RCode uint16

// Response codes, IANA's DNS parameters.
const (
	RCodeNoError  RCode = 0
	RCodeFormErr  RCode = 1
	RCodeServFail RCode = 2
	RCodeNXDomain RCode = 3
	RCodeNotImp   RCode = 4
	RCodeRefused  RCode = 5
	RCodeYXDomain RCode = 6
	RCodeYXRRSet  RCode = 7
	RCodeNXRRSet  RCode = 8
	RCodeNotAuth  RCode = 9
	RCodeNotZone  RCode = 10
	RCodeBadVers  RCode = 16
)

// String returns the mnemonic as dig prints it, or RCODEn.
func (r RCode) String() string {
	switch r {
	case RCodeNoError:
		return "NOERROR"
	case RCodeFormErr:
		return "FORMERR"
	case RCodeServFail:
		return "SERVFAIL"
	case RCodeNXDomain:
		return "NXDOMAIN"
	case RCodeNotImp:
		return "NOTIMP"
	case RCodeRefused:
		return "REFUSED"
	case RCodeYXDomain:
		return "YXDOMAIN"
	case RCodeYXRRSet:
		return "YXRRSET"
	case RCodeNXRRSet:
		return "NXRRSET"
	case RCodeNotAuth:
		return "NOTAUTH"
	case RCodeNotZone:
		return "NOTZONE"
	case RCodeBadVers:
		return "BADVERS"
	}
	return "RCODE" + strconv.Itoa(int(r))
}

// EDE is the INFO-CODE of an extended DNS error (RFC 8914). The zero value, the
// code "Other Error", says nothing that the RCODE does not say: here it stands
// for "none" and is never sent.
type EDE uint16

// Info codes, RFC 8914 section 4.
const (
	EDENone                 EDE = 0
	EDEStale                EDE = 3
	EDEForged               EDE = 4
	EDECachedError          EDE = 13
	EDENotReady             EDE = 14
	EDEBlocked              EDE = 15
	EDEProhibited           EDE = 18
	EDEStaleNXDomain        EDE = 19
	EDENotAuthoritative     EDE = 20
	EDENotSupported         EDE = 21
	EDENoReachableAuthority EDE = 22
	EDENetworkError         EDE = 23
	EDEInvalidData          EDE = 24
)

// String returns the purpose as RFC 8914 words it, or EDE n.
func (e EDE) String() string {
	switch e {
	case EDENone:
		return "none"
	case EDEStale:
		return "Stale Answer"
	case EDEForged:
		return "Forged Answer"
	case EDECachedError:
		return "Cached Error"
	case EDENotReady:
		return "Not Ready"
	case EDEBlocked:
		return "Blocked"
	case EDEProhibited:
		return "Prohibited"
	case EDEStaleNXDomain:
		return "Stale NXDOMAIN Answer"
	case EDENotAuthoritative:
		return "Not Authoritative"
	case EDENotSupported:
		return "Not Supported"
	case EDENoReachableAuthority:
		return "No Reachable Authority"
	case EDENetworkError:
		return "Network Error"
	case EDEInvalidData:
		return "Invalid Data"
	}
	return "EDE " + strconv.Itoa(int(e))
}
