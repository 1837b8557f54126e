// What the mended server asks and makes of an answer; copied beside it and run by test_mended.py.

package smtpsrv

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"blitiri.com.ar/go/spf"
)

// policy answers one request and keeps it.
func policy(t *testing.T, answer string) (string, chan []byte) {
	socket, asked := filepath.Join(t.TempDir(), "socket"), make(chan []byte, 1)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		request, _ := io.ReadAll(conn)
		conn.Write([]byte(answer))
		conn.Close()
		asked <- request
	}()
	return socket, asked
}

func session() *Conn {
	return &Conn{
		remoteAddr: &net.TCPAddr{IP: net.ParseIP("192.0.2.1"), Port: 7}, ehloDomain: "client",
		mailFrom: "alice@example.com", rcptTo: []string{"a@x.test", "b@y.test"}, completedAuth: true,
		authUser: "alice", authDomain: "example.com", onTLS: true, spfResult: spf.Fail,
	}
}

func TestPostDataSendsEachFieldAndEveryByte(t *testing.T) {
	message := bytes.Repeat([]byte("\x00\r\nbyte \xff"), 300000)
	head := "192.0.2.1:7\x00client\x00alice@example.com\x00a@x.test b@y.test\x00alice@example.com\x001\x000\x00"
	socket, asked := policy(t, "verdict 0\n")
	if out, permanent, err := session().askPostData(socket, message); len(out) != 0 || permanent || err != nil {
		t.Fatalf("got %q, %v, %v", out, permanent, err)
	}
	if request := <-asked; !bytes.Equal(request, append([]byte(head), message...)) {
		t.Fatalf("asked %.120q", request)
	}
	stranger := session()
	stranger.completedAuth, stranger.onTLS, stranger.spfResult = false, false, spf.Pass
	socket, asked = policy(t, "verdict 0\n")
	stranger.askPostData(socket, nil)
	if request := string(<-asked); !strings.HasSuffix(request, "b@y.test\x00\x000\x001\x00") {
		t.Fatalf("asked %q", request)
	}
}

func TestPostDataTakesOnlyAWholeAnswer(t *testing.T) {
	for answer, wanted := range map[string]struct {
		out       string
		permanent bool
		err       string
	}{
		"verdict 0\n":                            {},
		"X-One: 1\nX-Two: 2\n more\nverdict 0\n": {out: "X-One: 1\nX-Two: 2\n more\n"},
		"5.7.1 No\nverdict 20\n":                 {permanent: true, err: "5.7.1 No"},
		"4.7.1 Later\nverdict 75\n":              {err: "4.7.1 Later"},
		"":                                       {err: postDataUnanswered},
		"verdict 0":                              {err: postDataUnanswered},
		"X-One: 1\nverdict":                      {err: postDataUnanswered},
		"5.7.1 No\nverdict 2":                    {err: postDataUnanswered},
		"verdict 0\n\n":                          {err: postDataUnanswered},
		"X-One: 1\n\nbody\nverdict 0\n":          {err: postDataUnanswered},
		"nonsense\nverdict 0\n":                  {err: postDataUnanswered},
		"X: verdict 0\n":                         {err: postDataUnanswered},
		"verdict 1\n":                            {err: postDataUnanswered},
	} {
		socket, _ := policy(t, answer)
		out, permanent, err := session().askPostData(socket, []byte("m"))
		said := ""
		if err != nil {
			said = err.Error()
		}
		if string(out) != wanted.out || permanent != wanted.permanent || said != wanted.err {
			t.Errorf("%q: got %q, %v, %q", answer, out, permanent, said)
		}
	}
}

func TestPostDataWithoutAServiceDefers(t *testing.T) {
	_, permanent, err := session().askPostData(filepath.Join(t.TempDir(), "nobody"), []byte("m"))
	if permanent || err == nil || err.Error() != postDataUnanswered {
		t.Fatalf("got %v, %v", permanent, err)
	}
}

func TestPostDataFieldsCannotMove(t *testing.T) {
	forger := session()
	forger.mailFrom = "alice@example.com\x00victim@example.com"
	socket, _ := policy(t, "verdict 0\n")
	if _, permanent, err := forger.askPostData(socket, nil); permanent || err == nil {
		t.Fatalf("got %v, %v", permanent, err)
	}
}

func TestPostDataIsOverBeforeTheHooksMinute(t *testing.T) {
	if postDataLimit >= time.Minute {
		t.Fatal(postDataLimit)
	}
	postDataLimit = 50 * time.Millisecond
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "silent"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if _, permanent, err := session().askPostData(listener.Addr().String(), make([]byte, 1<<22)); permanent || err == nil {
		t.Fatalf("got %v, %v", permanent, err)
	}
}

// The mended hook: a link is asked, also one that leads nowhere; without any there is nothing to ask.
func TestPostDataHookThatIsALink(t *testing.T) {
	socket, _ := policy(t, "5.7.1 No\nverdict 20\n")
	conn := session()
	conn.postDataHook = filepath.Join(t.TempDir(), "post-data")
	if _, _, err := conn.runPostDataHook(nil); err != nil {
		t.Fatal(err)
	}
	symlink(t, socket, conn.postDataHook)
	if _, permanent, err := conn.runPostDataHook(nil); !permanent || err.Error() != "5.7.1 No" {
		t.Fatalf("got %v, %v", permanent, err)
	}
	conn.postDataHook += "-2"
	symlink(t, socket+"-gone", conn.postDataHook)
	if _, permanent, err := conn.runPostDataHook(nil); permanent || err == nil {
		t.Fatalf("got %v, %v", permanent, err)
	}
}

func symlink(t *testing.T, target, link string) {
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
}
