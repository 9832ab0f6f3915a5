# The bundled agent: counts files and lines per file extension below the path in the prompt.
# Input on stdin: {"prompt": "PATH"}. Result on stdout: JSON. Hidden folders, and the usual folders
# of build products, are left out.
set -eu

# The text of "prompt" with its JSON escapes undone; "." if there is none.
path=$(awk '
  { input = input $0 }
  END {
    if (!match(input, /"prompt"[ \t]*:[ \t]*"/)) { print "."; exit }
    for (i = RSTART + RLENGTH; (c = substr(input, i, 1)) != "\"" && c != ""; i++) {
      if (c == "\\" && (c = substr(input, ++i, 1)) == "n") c = "\n"
      text = text c
    }
    print text
  }')
case $path in -*) path=./$path ;; esac

if [ ! -e "$path" ]; then
  echo "cannot read $path: no such file or directory" >&2
  exit 1
fi
echo "counting $path for session $SESSION_ID" >&2

find "$path" -type d \( -name '.?*' -o -name target -o -name node_modules \) ! -path "$path" -prune \
  -o -type f -exec wc -l {} + |
  awk '
    $2 != "total" || NF > 2 {
      lines = $1
      name = $0
      sub(/.*\//, "", name)
      sub(/^ *[0-9]+ /, "", name)
      extension = match(name, /.\.[A-Za-z0-9_+-]+$/) ? substr(name, RSTART + 2) : "(none)"
      files[extension]++
      count[extension] += lines
    }
    END { for (e in files) print count[e], files[e], e }' |
  sort -k1,1nr -k3 |
  awk '
    { lines += $1; files += $2; rows = rows (NR > 1 ? ", " : "") sprintf("\"%s\": {\"files\": %d, \"lines\": %d}", $3, $2, $1) }
    END { printf "{\"files\": %d, \"lines\": %d, \"extensions\": {%s}}\n", files, lines, rows }'
