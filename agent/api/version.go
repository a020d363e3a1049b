package api

// Software is understudy's own version; the build sets it with -ldflags -X.
var Software = "dev"
