package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhichRDBsAServerLoads(t *testing.T) {
	for version, most := range map[string]int{"6.2.14": 9, "7.0.15": 10, "7.2.4": 11, "7.4.0": 12, "8.0.2": 12, "8.4.1": 12, "8.6.0": 13, "8.8.0": 14} {
		b := Binary{Product: Redis, Version: version}
		for rdb := 5; rdb <= 14; rdb++ {
			require.Equal(t, rdb <= most, b.unable(rdb) == "", "redis %s, RDB %d: %s", version, rdb, b.unable(rdb))
		}
		require.NotEmpty(t, b.unable(80))
		require.Equal(t, most, b.writes())
	}
	require.Equal(t, "an RDB of version 12 takes redis 7.4 or newer", Binary{Product: Redis, Version: "7.2.4"}.unable(12))
	require.NotEmpty(t, Binary{Product: Redis, Version: "8.8.0"}.unable(15))
	require.Empty(t, Binary{Product: Redis, Version: "9.0.0"}.unable(15), "what isn't known yet is taken at its word")
	for _, version := range []string{"7.2.5", "8.1.1", "9.0.0", "9.1.2", "10.0.0"} {
		b := Binary{Product: Valkey, Version: version}
		require.Empty(t, b.unable(11), version)
		require.NotEmpty(t, b.unable(12), version)
		require.Equal(t, version[0] == '7' || version[0] == '8', b.unable(80) != "", version)
		require.Empty(t, b.unable(b.writes()), version)
	}
}

// script is a program of that name that says something.
func script(t *testing.T, dir, name, says string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path, []byte(fmt.Sprintf("#!/bin/sh\necho '%s'\n", says)), 0o700))
	return path
}

func TestFind(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	find := func(product string, rdb int, configured map[string]string) (string, string) {
		b, err := Find(t.Context(), product, rdb, configured)
		if err != nil {
			var none *NotFoundError
			require.ErrorAs(t, err, &none)
			require.NotEmpty(t, none.Hint())
			return "", err.Error()
		}
		return b.String(), b.Path
	}
	none := func(product string, rdb int, configured map[string]string, says string) {
		t.Helper()
		got, err := find(product, rdb, configured)
		require.Empty(t, got)
		require.Contains(t, err, says)
	}
	none(Valkey, 80, map[string]string{Valkey: filepath.Join(dir, "nothing")}, "there is no valkey here that loads an RDB of version 80")

	// A valkey that goes by the name of redis, too.
	as := script(t, dir, "redis-server", "Valkey server v=8.1.1 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=384b3c0d511f998a")
	got, path := find(Valkey, 11, nil)
	require.Equal(t, "valkey 8.1.1", got)
	require.Equal(t, as, path)
	none(Valkey, 80, nil, as+" is valkey 8.1.1, and an RDB of version 80 takes valkey 9.0 or newer")
	none(Redis, 10, nil, as+" is valkey 8.1.1")

	// One that the configuration names goes before all others, and is no other.
	own := script(t, other, "any", "Redis server v=8.0.2 sha=0:0 malloc=libc bits=64 build=0")
	got, path = find(Redis, 12, map[string]string{Redis: own})
	require.Equal(t, "redis 8.0.2", got)
	require.Equal(t, own, path)
	none(Valkey, 11, map[string]string{Valkey: own}, own+" is redis 8.0.2")
	none(Redis, 10, map[string]string{Redis: script(t, other, "odd", "hello")}, "neither a redis-server nor a valkey-server")
	none(Redis, 10, map[string]string{Redis: filepath.Join(other, "none")}, "no such file or directory")

	// What one saves is for a master of another version only where their RDBs are alike.
	like := func(version string) string {
		_, err := FindLike(t.Context(), Redis, version, map[string]string{Redis: own})
		if err == nil {
			return ""
		}
		return err.Error()
	}
	require.Empty(t, like("7.4.1"))
	require.Equal(t, own+" is redis 8.0.2, which writes RDBs of version 12, and those of redis 7.2.4 are of version 11", like("7.2.4"))
	require.Contains(t, like("8.6.0"), "an RDB of version 13 takes redis 8.6 or newer")

	// Where the product isn't known, what loads it does.
	got, _ = find("", 11, map[string]string{Redis: own})
	require.Equal(t, "redis 8.0.2", got)
	got, _ = find("", 11, nil)
	require.Equal(t, "valkey 8.1.1", got)
}
