# Removes the world in the folder $0 when the process that holds the other end of our standard input has ended without a
# word, however it ended. With a word: leaves everything as it is. $1, where it is given: the number of a user that is only
# there for this world; with it goes whatever runs as that user.
read -r _ && exit

end_servers() {
    for file in "$0"/*/postmaster.pid "$0"/*/*/postmaster.pid; do
        pid=$(head -n 1 "$file" 2>/dev/null) && [ "$(readlink "/proc/$pid/cwd")" = "${file%/*}" ] && kill -s QUIT "$pid"
    done
    for file in "$0"/*/pgbouncer.pid; do
        pid=$(head -n 1 "$file" 2>/dev/null) && tr '\0' '\n' <"/proc/$pid/cmdline" | grep -qxF "${file%.pid}.ini" && kill -s KILL "$pid"
    done
    # What receives WAL for a store in there, and the shell that starts it again and again.
    for process in /proc/[0-9]*; do
        tr '\0' '\n' <"$process/cmdline" | {
            read -r program
            case ${program##*/} in
            pg_receivewal) grep -qF "$0/" ;;
            sh) grep -F "$0/" | grep -qx '.*/greenlight\.keeper' ;;
            *) false ;;
            esac
        } && kill -s KILL "${process#/proc/}"
        [ -n "$1" ] && grep -q "^Uid:.*[[:space:]]$1[[:space:]]" "$process/status" && kill -s KILL "${process#/proc/}"
    done
}

# One that was only about to start is found in a later round.
for _ in 1 2 3; do
    end_servers "$1"
    sleep 1
done 2>/dev/null
rm -rf -- "$0"
