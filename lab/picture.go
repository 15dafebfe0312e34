package lab

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

func picture(r *Report) []byte { return nil }

var _ = fmt.Sprint
var _ = math.Pi
var _ = slices.Max[[]int]
var _ strings.Builder
var _ time.Duration
