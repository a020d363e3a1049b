package config

import _ "embed"

//go:embed agent.toml
var example string

// Example is a complete, commented configuration of the first node of a pair:
// what the packages install and what `understudy init` starts from.
func Example() string { return example }
