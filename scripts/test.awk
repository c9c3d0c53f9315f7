# Reads go test -json. A test's output is kept until its end is known, and printed if it failed;
# what a package says, and what isn't JSON, is printed at once.

# field is the text of a member, still escaped. Members in a string's text are escaped, so the
# first match is the real one.
function field(name,    at, rest, i, c) {
	at = index($0, "\"" name "\":\"")
	if (!at) return ""
	rest = substr($0, at + length(name) + 4)
	for (i = 1; i <= length(rest); i++) {
		c = substr(rest, i, 1)
		if (c == "\\") i++
		else if (c == "\"") return substr(rest, 1, i - 1)
	}
	return rest
}

function plain(s,    out, i, c) {
	gsub(/\\u003c/, "<", s); gsub(/\\u003e/, ">", s); gsub(/\\u0026/, "\\&", s)
	out = ""
	for (i = 1; i <= length(s); i++) {
		c = substr(s, i, 1)
		if (c == "\\") {
			c = substr(s, ++i, 1)
			if (c == "n") c = "\n"
			else if (c == "t") c = "\t"
			else if (c == "r") c = ""
			else if (c == "u") c = "\\u"
		}
		out = out c
	}
	return out
}

!/^\{/ { print; next }

{
	action = field("Action"); package = field("Package"); test = field("Test"); id = package " " test
}

action == "build-output" { printf "%s", plain(field("Output")); next }
action == "output" && test == "" {
	text = plain(field("Output"))
	if (text != "PASS\n" && text !~ /^testing: warning|no test files/) printf "%s", text
	next
}
action == "output" {
	text = plain(field("Output"))
	if (text !~ /^=== /) said[id] = said[id] text
	next
}
test != "" && action == "pass" { passed++; delete said[id]; next }
test != "" && action == "skip" { skipped++; printf "%s", said[id]; delete said[id]; next }
test != "" && action == "fail" { failed++; blamed[package] = 1; printf "%s", said[id]; delete said[id]; next }
# A package that doesn't build, or dies between tests, counts as a failure too. What its
# unfinished tests said is the reason.
test == "" && action == "fail" {
	if (!(package in blamed)) failed++
	for (id in said) if (index(id, package " ") == 1) { printf "%s", said[id]; delete said[id] }
}

END {
	printf "%d passed, %d failed%s\n", passed, failed, skipped ? ", " skipped " skipped" : ""
	exit (failed > 0)
}
