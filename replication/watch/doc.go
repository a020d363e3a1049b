// Package watch tells where volumes may have changed.
package watch
