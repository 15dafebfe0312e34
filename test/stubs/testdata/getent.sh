# Looks names up with getent and prints one line a name, as lookup.c does. getent names the canonical name beside the first address alone.
for name; do
	if out=$(getent ahosts "$name"); then
		echo "$name" $(echo "$out" | awk '{print $1}' | LC_ALL=C sort -u) "($(echo "$out" | awk 'NR == 1 {print $3}'))"
	else
		echo "$name error: $?"
	fi
done
