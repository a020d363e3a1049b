package main

func init() {
	register(work{
		id: "first-1g", what: "first synchronisation of files that nothing can compress", on: both,
		full: shape{size: 1 << 30, pairs: 3}, small: shape{size: 64 << 20, pairs: 2}, grows: "bytes", run: firstSync("noise", 1.0),
	})
}
