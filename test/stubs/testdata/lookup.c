/* Looks names up with the C library's stub resolver and prints one line a name: the addresses in order of their text and, in
   parentheses, the canonical name; or the error. The same source is built with glibc and with musl. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { MOST = 512 };

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

int main(int argc, char **argv) {
	for (int i = 1; i < argc; i++) {
		struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_CANONNAME}, *list = NULL;
		int rc = getaddrinfo(argv[i], NULL, &hints, &list);
		printf("%s", argv[i]);
		if (rc) {
			printf(" error: %s\n", gai_strerror(rc));
			continue;
		}
		char *texts[MOST];
		int n = 0;
		for (struct addrinfo *a = list; a && n < MOST; a = a->ai_next) {
			char text[INET6_ADDRSTRLEN];
			const void *from = a->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)a->ai_addr)->sin_addr
			                                           : (void *)&((struct sockaddr_in6 *)a->ai_addr)->sin6_addr;
			texts[n++] = strdup(inet_ntop(a->ai_family, from, text, sizeof text));
		}
		qsort(texts, n, sizeof *texts, by_text);
		for (int k = 0; k < n; k++)
			printf(" %s", texts[k]);
		printf(" (%s)\n", list->ai_canonname);
		freeaddrinfo(list);
	}
	return 0;
}
