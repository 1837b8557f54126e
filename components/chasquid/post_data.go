// The post-data hook without a program: internal/smtpsrv/conn.go is mended to ask here where hooks/post-data is a link.
// To start a program for each message costs more than all else that is done for it.

package smtpsrv

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"blitiri.com.ar/go/chasquid/internal/trace"
	"blitiri.com.ar/go/spf"
)

const (
	postDataAnswer     = 1 << 20 // bytes
	postDataUnanswered = "4.3.0 The sender policy of this server does not answer; try again later"
)

var postDataLimit = 50 * time.Second

// askPostData asks the service at a Unix socket what becomes of the message: header fields to put on top, or a refusal
// (permanent or not). Without a whole answer the message waits at its sender.
//
// It is sent what a hook finds in its environment (docs/hooks.md), each ended by a zero byte, then the message up to
// the end of the stream. The answer ends in a line with what a hook would exit with; it is text or fields before that.
func (c *Conn) askPostData(socket string, data []byte) ([]byte, bool, error) {
	tr := trace.New("Hook.Post-DATA", c.remoteAddr.String())
	defer tr.Finish()
	answer, err := exchange(socket, c.postDataFields(), data)
	text, verdict := cutLastLine(answer)
	switch {
	case err == nil && verdict == "verdict 0" && isHeader([]byte(text)):
		hookResults.Add("post-data:success", 1)
		return []byte(text), false, nil
	case err == nil && (verdict == "verdict 20" || verdict == "verdict 75"):
		hookResults.Add("post-data:fail", 1)
		return nil, verdict == "verdict 20", errors.New(lastLine(text))
	}
	tr.Errorf("no answer from %s: %v, %q", socket, err, answer)
	hookResults.Add("post-data:fail", 1)
	return nil, false, errors.New(postDataUnanswered)
}

func (c *Conn) postDataFields() []string {
	user := ""
	if c.completedAuth {
		user = c.authUser + "@" + c.authDomain
	}
	return []string{
		c.remoteAddr.String(), sanitizeEHLODomain(c.ehloDomain), c.mailFrom, strings.Join(c.rcptTo, " "),
		user, boolToStr(c.onTLS), boolToStr(c.spfResult == spf.Pass),
	}
}

func exchange(socket string, fields []string, data []byte) (string, error) {
	end := time.Now().Add(postDataLimit)
	conn, err := net.DialTimeout("unix", socket, postDataLimit)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(end)
	var head bytes.Buffer
	for _, field := range fields {
		if strings.ContainsRune(field, 0) {
			return "", errors.New("a zero byte in a field would move the others")
		}
		head.WriteString(field + "\x00")
	}
	request := net.Buffers{head.Bytes(), data}
	if _, err = request.WriteTo(conn); err != nil {
		return "", err
	}
	if err = conn.(*net.UnixConn).CloseWrite(); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(io.LimitReader(conn, postDataAnswer))
	return string(answer), err
}

// cutLastLine parts an answer from its verdict; one that was cut off has none.
func cutLastLine(answer string) (string, string) {
	whole, ended := strings.CutSuffix(answer, "\n")
	if !ended {
		return answer, ""
	}
	start := strings.LastIndex(whole, "\n") + 1
	return whole[:start], whole[start:]
}
