package wire

import "strconv"

// Type is the type of a record or a question.
type Type uint16

// Types that are looked into or named, IANA's DNS parameters.
const (
	TypeA       Type = 1
	TypeNS      Type = 2
	TypeMD      Type = 3
	TypeMF      Type = 4
	TypeCNAME   Type = 5
	TypeSOA     Type = 6
	TypeMB      Type = 7
	TypeMG      Type = 8
	TypeMR      Type = 9
	TypePTR     Type = 12
	TypeHINFO   Type = 13
	TypeMINFO   Type = 14
	TypeMX      Type = 15
	TypeTXT     Type = 16
	TypeRP      Type = 17
	TypeAFSDB   Type = 18
	TypeRT      Type = 21
	TypeNSAPPTR Type = 23
	TypeSIG     Type = 24
	TypePX      Type = 26
	TypeAAAA    Type = 28
	TypeNXT     Type = 30
	TypeSRV     Type = 33
	TypeNAPTR   Type = 35
	TypeKX      Type = 36
	TypeDNAME   Type = 39
	TypeOPT     Type = 41
	TypeDS      Type = 43
	TypeRRSIG   Type = 46
	TypeNSEC    Type = 47
	TypeDNSKEY  Type = 48
	TypeNSEC3   Type = 50
	TypeTALINK  Type = 58
	TypeSVCB    Type = 64
	TypeHTTPS   Type = 65
	TypeLP      Type = 107
	TypeTKEY    Type = 249
	TypeTSIG    Type = 250
	TypeIXFR    Type = 251
	TypeAXFR    Type = 252
	TypeMAILB   Type = 253
	TypeMAILA   Type = 254
	TypeANY     Type = 255
	TypeCAA     Type = 257
)

// String returns the mnemonic, or TYPEn (RFC 3597 section 5).
func (t Type) String() string {
	switch t {
	case TypeA:
		return "A"
	case TypeNS:
		return "NS"
	case TypeCNAME:
		return "CNAME"
	case TypeSOA:
		return "SOA"
	case TypePTR:
		return "PTR"
	case TypeHINFO:
		return "HINFO"
	case TypeMX:
		return "MX"
	case TypeTXT:
		return "TXT"
	case TypeAAAA:
		return "AAAA"
	case TypeSRV:
		return "SRV"
	case TypeNAPTR:
		return "NAPTR"
	case TypeDNAME:
		return "DNAME"
	case TypeOPT:
		return "OPT"
	case TypeDS:
		return "DS"
	case TypeRRSIG:
		return "RRSIG"
	case TypeNSEC:
		return "NSEC"
	case TypeDNSKEY:
		return "DNSKEY"
	case TypeNSEC3:
		return "NSEC3"
	case TypeSVCB:
		return "SVCB"
	case TypeHTTPS:
		return "HTTPS"
	case TypeTKEY:
		return "TKEY"
	case TypeTSIG:
		return "TSIG"
	case TypeIXFR:
		return "IXFR"
	case TypeAXFR:
		return "AXFR"
	case TypeANY:
		return "ANY"
	case TypeCAA:
		return "CAA"
	}
	return "TYPE" + strconv.Itoa(int(t))
}

// ParseType is the inverse of Type.String; case does not matter. ok is false
// for what is no type.
func ParseType(s string) (t Type, ok bool) {
	var up [16]byte
	if len(s) > len(up) {
		return 0, false
	}
	for i := 0; i < len(s); i++ {
		up[i] = s[i]
		if c := s[i]; 'a' <= c && c <= 'z' {
			up[i] = c - 0x20
		}
	}
	m := string(up[:len(s)])
	if len(m) > 4 && m[:4] == "TYPE" {
		n, err := strconv.ParseUint(m[4:], 10, 16)
		return Type(n), err == nil
	}
	for _, t := range [...]Type{
		TypeA, TypeNS, TypeCNAME, TypeSOA, TypePTR, TypeHINFO, TypeMX, TypeTXT, TypeAAAA, TypeSRV, TypeNAPTR,
		TypeDNAME, TypeOPT, TypeDS, TypeRRSIG, TypeNSEC, TypeDNSKEY, TypeNSEC3, TypeSVCB, TypeHTTPS, TypeTKEY,
		TypeTSIG, TypeIXFR, TypeAXFR, TypeANY, TypeCAA,
	} {
		if t.String() == m {
			return t, true
		}
	}
	return 0, false
}

// Class is the class of a record or a question.
type Class uint16

// Classes, IANA's DNS parameters.
const (
	ClassIN   Class = 1
	ClassCH   Class = 3
	ClassHS   Class = 4
	ClassNONE Class = 254
	ClassANY  Class = 255
)

// String returns the mnemonic, or CLASSn (RFC 3597 section 5).
func (c Class) String() string {
	switch c {
	case ClassIN:
		return "IN"
	case ClassCH:
		return "CH"
	case ClassHS:
		return "HS"
	case ClassNONE:
		return "NONE"
	case ClassANY:
		return "ANY"
	}
	return "CLASS" + strconv.Itoa(int(c))
}
