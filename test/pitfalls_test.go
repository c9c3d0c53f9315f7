package test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// pitfalls are all that replication streams, RDBs and AOFs are known to hold in store for a program
// like this one, by number, each with the tests that show that it doesn't fall in, as a replica and as a
// master of replicas.
var pitfalls = []struct {
	number int
	what   string
	shown  []string // folder and test
}{
	{1, "FAILOVER picks us", []string{"internal/relay TestPitfall1FailoverPicksUsAndTheMasterStaysWritable", "internal/relay TestConversations"}},
	{2, "answering FAILOVER's PSYNC with +CONTINUE", []string{"internal/relay TestConversations", "internal/relay TestReplicasArePutOff"}},
	{3, "no REPLCONF version, and hashes whose fields expire", []string{"internal/syncer TestPitfall3HashesWithFieldExpiry", "test TestPitfalls"}},
	{4, "one ACK too early behind a diskless RDB", []string{"internal/syncer TestPitfall4AQuietLinkAcknowledgesEverySecond", "test TestPitfalls"}},
	{5, "a newline that keeps a replica's connection alive shifts its offset", []string{"internal/relay TestPitfall5NothingIsInventedInAStream", "test TestServePitfall5SilenceCostsNothing"}},
	{6, "an ACK that is too high is believed", []string{"internal/syncer TestPitfall6NothingBeyondWhatWasReceivedIsAcknowledged"}},
	{7, "a command with a reply on the link", []string{"internal/syncer TestRDBInAnyPieces"}},
	{8, "a late ACK holds up SHUTDOWN", []string{"internal/syncer TestRestartOfTheMaster"}},
	{9, "a pipelined PSYNC", []string{"internal/syncer answer"}},
	{10, "newlines before +FULLRESYNC and before the RDB", []string{"internal/syncer TestPitfall10Newlines", "internal/relay TestPitfall10NewlinesWhileAStoreTakesItsTime", "test TestRelayOfABucketThatIsSlow"}},
	{11, "PSYNC in the middle of a command", []string{"internal/syncer TestCutLinks"}},
	{12, "a refused PSYNC is a fork", []string{"internal/syncer TestBacklogTooSmallIsSaidBeforehand"}},
	{13, "no SELECT behind +CONTINUE", []string{"test TestPitfalls"}},
	{14, "a full sync of others puts a SELECT into the stream", []string{"test TestPitfalls"}},
	{15, "the EOF mark is always the same", []string{"internal/syncer TestPitfall15TheMarkInAValue", "test TestPitfalls"}},
	{16, "type 22 and opcode 243 mean different things", []string{"test TestPitfalls"}},
	{17, "HPERSIST replayed late", []string{"test TestPitfalls"}},
	{18, "an RDB of a version that a replica can't load", []string{"internal/relay TestPitfall18RDBVersions", "internal/relay TestPitfall18HammeringIsSlowedDown", "test TestRelayPitfall18AnRDBThatTheReplicaCantLoad"}},
	{19, "an error that a replica doesn't know makes it say SYNC", []string{"internal/relay TestReplicasArePutOff", "internal/relay TestPitfall19AReplicaOfOursWaits", "test TestRelayPitfall19AReplicaThatIsAhead"}},
	{20, "a clean restart of the master", []string{"internal/syncer TestRestartOfTheMaster", "test TestPitfalls"}},
	{21, "a restart of the master with an AOF", []string{"internal/syncer TestHistoriesThatEnd", "test TestPitfalls"}},
	{22, "an hour without replicas", []string{"internal/syncer TestHistoriesThatEnd"}},
	{23, "expiry as DEL or UNLINK, names in lower case", []string{"test TestPitfalls"}},
	{24, "a folder that starts empty", []string{"test TestPitfallsOfARestore"}},
	{25, "long annotations, blank lines, half lines", []string{"test TestPitfallsOfARestore"}},
	{26, "each file starts in database 0", []string{"test TestPitfallsOfARestore"}},
	{27, "commands that fail at load are only logged", []string{"test TestPitfallsOfARestore"}},
	{28, "two-channel capabilities change the protocol", []string{"internal/syncer greet", "internal/relay TestReplicasArePutOff"}},
	{29, "single-write transactions come bare", []string{"test TestPitfalls"}},
	{30, "a value larger than the output buffer", []string{"internal/syncer TestPitfall30OutputBufferTooSmall", "test TestPitfalls"}},
	{31, "the stream glued to the mark", []string{"internal/syncer TestRDBInAnyPieces", "internal/relay TestAFullSyncAndAPartialOne"}},
}

// Each pitfall has a test that is there and names it.
func TestEveryPitfallHasATest(t *testing.T) {
	var numbers []int
	for _, p := range pitfalls {
		numbers = append(numbers, p.number)
		require.NotEmpty(t, p.shown, "pitfall %d: %s", p.number, p.what)
		for _, shown := range p.shown {
			folder, name, _ := strings.Cut(shown, " ")
			text, there := functions(t, filepath.Join("..", folder))[name]
			require.True(t, there, "pitfall %d: there is no %s in %s", p.number, name, folder)
			named := regexp.MustCompile(`(?i)pitfalls? ?(\d+ and )?` + strconv.Itoa(p.number) + `\D`)
			require.Regexp(t, named, text, "%s in %s doesn't name pitfall %d", name, folder, p.number)
		}
	}
	slices.Sort(numbers)
	for i, n := range numbers {
		require.Equal(t, i+1, n, "none is left out, none is twice")
	}
	require.Len(t, numbers, 31)
}

// functions are those of a folder's tests, with what stands above and inside them.
func functions(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	names, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	require.NoError(t, err)
	for _, name := range names {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		f, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ParseComments)
		require.NoError(t, err)
		for _, decl := range f.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok {
				all[fn.Name.Name] += fn.Doc.Text() + string(text[fn.Pos()-1:fn.End()-1])
			}
		}
	}
	return all
}
