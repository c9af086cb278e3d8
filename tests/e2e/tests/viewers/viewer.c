/* A client on libvncclient: connects, receives the whole screen, and writes it as a PPM file.
 * viewer HOST:DISPLAY PASSWORD FILE
 */
#include <rfb/rfbclient.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *password_text;

static char *password(rfbClient *client) {
    (void)client;
    return strdup(password_text);
}

static int covered;

/* Counts the pixels that were drawn. Rectangles that only say what the server can do draw nothing: then the
 * first pixel is still what main() made it, which no pixel of the pattern's rectangles is. */
static void updated(rfbClient *client, int x, int y, int w, int h) {
    uint32_t first;
    memcpy(&first, client->frameBuffer + 4 * (y * client->width + x), 4);
    if (first != 0xffffffff)
        covered += w * h;
}

int main(int argc, char **argv) {
    if (argc != 4)
        return 2;
    password_text = argv[2];
    int count = 2;
    char *arguments[] = {argv[0], argv[1], NULL};
    rfbClient *client = rfbGetClient(8, 3, 4);
    client->GetPassword = password;
    client->GotFrameBufferUpdate = updated;
    client->canHandleNewFBSize = FALSE;
    client->appData.encodingsString = getenv("ENCODINGS");
    if (!rfbInitClient(client, &count, arguments))
        return 1;
    memset(client->frameBuffer, 0xff, (size_t)client->width * client->height * 4);
    while (covered < client->width * client->height) {
        if (WaitForMessage(client, 1000000) < 0 || !HandleRFBServerMessage(client))
            return 1;
    }
    FILE *file = fopen(argv[3], "wb");
    if (!file)
        return 1;
    fprintf(file, "P6\n%d %d\n255\n", client->width, client->height);
    for (int n = 0; n < client->width * client->height; n++)
        fwrite(client->frameBuffer + 4 * n, 1, 3, file);
    return fclose(file) != 0;
}
