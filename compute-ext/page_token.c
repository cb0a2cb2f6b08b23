/*-------------------------------------------------------------------------
 *
 * page_token.c
 *	  The token that is shown to the page server.
 *
 * The supervisor writes it into the postmaster's standard input; backends
 * inherit it with the postmaster's memory.  It is in no setting, argument,
 * environment variable or file, because a superuser reads all of those.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "page_token.h"

#define TOKEN_ON_STDIN	"OGEL_TOKEN_ON_STDIN"
#define MAX_TOKEN_SIZE	4096

static char token[MAX_TOKEN_SIZE + 1];

/* In the postmaster, once, before anything is connected. */
void
page_token_receive(void)
{
	size_t		size = 0;

	if (getenv(TOKEN_ON_STDIN) == NULL)
		return;
	unsetenv(TOKEN_ON_STDIN);
	for (;;)
	{
		ssize_t		got = read(STDIN_FILENO, token + size, MAX_TOKEN_SIZE - size);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			ereport(FATAL,
					(errcode_for_file_access(),
					 errmsg("could not read the page server's token from standard input: %m"),
					 errhint("Start the server through its supervisor.")));
		if (got == 0)
			break;
		size += got;
		if (size == MAX_TOKEN_SIZE)
			ereport(FATAL,
					(errcode(ERRCODE_INVALID_PASSWORD),
					 errmsg("the page server's token is longer than %d bytes", MAX_TOKEN_SIZE - 1),
					 errhint("Check the supervisor's token file.")));
	}
	token[size] = '\0';
}

/* NULL: there is none. */
const char *
page_token(void)
{
	return token[0] == '\0' ? NULL : token;
}
