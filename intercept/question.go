package intercept

import (
	"encoding/binary"
	"errors"
	"strings"
)

// question returns the probe as a DNS message with ID 0: qname, type A, class IN, RD set.
func question(qname string) ([]byte, error) {
	msg := []byte{0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	name, ok := strings.CutSuffix(qname, ".")
	if !ok || name == "" {
		return nil, errors.New("must be a name that ends with a dot")
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.ContainsAny(label, "\\ \t\n") {
			return nil, errors.New("has a label that is empty, over 63 bytes or would need an escape")
		}
		msg = append(append(msg, byte(len(label))), label...)
	}
	if len(msg)-12 > 254 {
		return nil, errors.New("is over 255 bytes")
	}
	return append(msg, 0, 0, 1, 0, 1), nil
}

// answers tells whether msg is a response (QR set) to the probe with that ID.
func answers(msg []byte, id uint16) bool {
	return len(msg) >= 12 && binary.BigEndian.Uint16(msg) == id && msg[2]&0x80 != 0
}
