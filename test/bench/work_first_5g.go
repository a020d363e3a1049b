package main

func init() {
	register(work{
		id: "first-5g", what: "first synchronisation of a mixed tree: half of it noise, a quarter text of 1 MiB, a quarter small text", on: both,
		full: shape{size: 5 << 30, pairs: 3}, small: shape{size: 192 << 20, pairs: 2}, grows: "bytes", run: firstSync("mixed", 1.2),
	})
}
