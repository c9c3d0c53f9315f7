//go:build !race

package rdbwalk

// raceEnabled: nothing is thinned out without the race detector.
const raceEnabled = false

// cutStep is how far apart the places are at which RDBs are cut.
const cutStep = 1
