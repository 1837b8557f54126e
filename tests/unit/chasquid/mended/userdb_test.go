// That a wrong password costs the same whoever is named; copied beside the mended code and run by test_mended.py.

package userdb

import (
	"testing"
	"time"
)

func TestAWrongPasswordCostsAFullHashWhoeverIsNamed(t *testing.T) {
	token := &Scrypt{LogN: 2, R: 8, P: 1, KeyLen: 32, Salt: make([]byte, 16), Encrypted: make([]byte, 32)}
	denied := &Password{Scheme: &Password_Denied{&Denied{}}}
	db := New("")
	db.db.Users["token"] = &Password{Scheme: &Password_Scrypt{token}}
	db.db.Users["denied"] = denied
	started := time.Now()
	token.PasswordMatches("wrong")
	cheap := time.Since(started)
	for _, name := range []string{"token", "denied", "nobody"} {
		started = time.Now()
		if db.Authenticate(name, "wrong") {
			t.Errorf("%s is let in", name)
		}
		if took := time.Since(started); took < 5*time.Millisecond || took < 10*cheap {
			t.Errorf("a wrong password of %s is refused after %s, a cheap hash takes %s", name, took, cheap)
		}
	}
}
