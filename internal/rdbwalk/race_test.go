//go:build race

package rdbwalk

// raceEnabled thins out the tests that are many times slower under the race detector.
const raceEnabled = true

// cutStep is how far apart the places are at which RDBs are cut.
const cutStep = 7
