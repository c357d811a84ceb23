// Prints a user token for a live room. Needs the standard library only.
//
// Arguments: USER NAME [ROLE ROOM...]. Environment: TOKEN_SIGNING_KEY, a file with the private key in PEM;
// TOKEN_KEY_ID, its kid in the JWK Set that liveroom has.
package main

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log"
	"os"
	"time"
)

func encoded(part any) string {
	text, err := json.Marshal(part)
	if err != nil {
		log.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

func signingKey(file string) *rsa.PrivateKey {
	text, err := os.ReadFile(file)
	if err != nil {
		log.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		log.Fatal(file, " is no PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		log.Fatal(err)
	}
	private, isRSA := key.(*rsa.PrivateKey)
	if !isRSA {
		log.Fatal(file, " is no RSA key")
	}
	return private
}

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: sign_token USER NAME [ROLE ROOM...]")
	}
	now := time.Now().Unix()
	claims := map[string]any{
		"aud": "liveroom", "sub": os.Args[1], "name": os.Args[2], "role": "viewer", "iat": now, "exp": now + 3600,
	}
	if len(os.Args) > 3 {
		claims["role"] = os.Args[3]
	}
	if len(os.Args) > 4 {
		claims["rooms"] = os.Args[4:]
	}
	header := map[string]string{"alg": "RS256", "typ": "JWT", "kid": os.Getenv("TOKEN_KEY_ID")}
	text := encoded(header) + "." + encoded(claims)
	digest := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(nil, signingKey(os.Getenv("TOKEN_SIGNING_KEY")), crypto.SHA256, digest[:])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(text + "." + base64.RawURLEncoding.EncodeToString(signature))
}
