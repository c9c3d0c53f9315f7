//go:build race

package retention

// raceEnabled shortens most of the simulated years, which are many times slower under the race
// detector.
const raceEnabled = true
