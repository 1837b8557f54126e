//go:build pins

// Package engine names the program that go.mod pins, so that `go mod tidy`, which looks at every build tag, keeps its modules.
package engine

import _ "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"
