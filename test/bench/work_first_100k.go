package main

func init() {
	register(work{
		id: "first-100k", what: "first synchronisation of small files", on: both,
		full: shape{size: 100_000, pairs: 3}, small: shape{size: 10_000, pairs: 2}, grows: "files", run: firstSync("small", 2),
	})
}
