package config

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRetention(t *testing.T) {
	read := func(text string) (*Config, error) {
		c, _, err := Parse("f", []byte("sources: [{name: a, address: b}]\n"+text), environment())
		return c, err
	}
	const stores = "stores: [{type: disk, path: /a}]\n"

	c, err := read(stores)
	require.NoError(t, err)
	require.Nil(t, c.Retention)
	require.Nil(t, c.RetentionIn(c.Stores[0]), "nothing is ever deleted")

	c, err = read(stores + "retention: {window: 7d, keep: {hourly: 24, daily: 7, weekly: 4, monthly: 12}, minimum: 3}")
	require.NoError(t, err)
	require.Equal(t, &Retention{Window: Duration(7 * 24 * time.Hour), Keep: Keep{24, 7, 4, 12}, Minimum: 3}, c.Retention)
	require.Equal(t, c.Retention, c.RetentionIn(c.Stores[0]))

	c, err = read("retention: {window: 7d}\nstores: [{type: disk, path: /a, retention: {keep: {daily: 1}}}]")
	require.NoError(t, err)
	require.Equal(t, &Retention{Window: DefaultWindow, Keep: Keep{Daily: 1}, Minimum: 1}, c.RetentionIn(c.Stores[0]), "the store's own")

	for text, want := range map[string]string{
		stores + "retention: {}":                              `f:3:12: "retention" says nothing: say what is kept, like {window: 7d}`,
		stores + "retention: {window: 7}":                     `f:3:21: "7" is not a duration: say 10s, 1h30m or 7d`,
		stores + "retention: {window: 7d, minimum: 0}":        `f:3:34: a minimum of 0 would let the last snapshot go: it is at least 1`,
		stores + "retention: {keep: {}}":                      `f:3:19: "keep" keeps nothing: say how many, like {daily: 7, weekly: 4}, or leave it out`,
		stores + "retention: {keep: {daily: -1}}":             `f:3:27: "-1" is not a number of snapshots: say 0 or more`,
		stores + "retention: {keep: {dayly: 1}}":              `f:3:20: unknown field "dayly": did you mean "daily"?`,
		stores + "retention: 7d":                              `f:3:12: "retention" is the single value "7d", it wants fields, like {a: b}`,
		"stores: [{type: disk, path: /a, retention: {a: 1}}]": `f:2:45: unknown field "a": there is window, keep, minimum`,
	} {
		_, err := read(text)
		require.ErrorContains(t, err, want, text)
	}
}
