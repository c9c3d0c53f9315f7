package s3test

import (
	"context"
	"encoding/json"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// KMSKey is a key that MinIO encrypts objects with, as its environment has it.
const KMSKey = "MINIO_KMS_SECRET_KEY=test-key:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

// Keys are those of somebody who may list a bucket below a prefix and do what is named, like
// s3:PutObject, with the objects there, and nothing else, as AWS's environment has them. Only MinIO makes
// such.
func (s *Server) Keys(bucket, prefix string, rights ...string) (env []string) {
	s.t.Helper()
	type statement struct {
		Effect    string
		Action    []string
		Resource  string
		Condition map[string]map[string]string `json:",omitempty"`
	}
	policy, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": []statement{
		{Effect: "Allow", Action: []string{"s3:ListBucket"}, Resource: "arn:aws:s3:::" + bucket, Condition: map[string]map[string]string{"StringLike": {"s3:prefix": prefix + "*"}}},
		{Effect: "Allow", Action: rights, Resource: "arn:aws:s3:::" + bucket + "/" + prefix + "*"},
	}})
	if err != nil {
		s.t.Fatalf("%v", err)
	}
	client := sts.New(sts.Options{
		BaseEndpoint: aws.String(s.Endpoint()), Region: Region, Credentials: credentials.NewStaticCredentialsProvider(AccessKey, SecretKey, ""),
	})
	out, err := client.AssumeRole(context.Background(), &sts.AssumeRoleInput{
		RoleArn: aws.String("arn:aws:iam::123456789012:role/any"), RoleSessionName: aws.String("test"), Policy: aws.String(string(policy)),
	})
	if err != nil {
		s.t.Fatalf("get keys of %s: %v\n%s", s.kind, err, s.tail())
	}
	c := out.Credentials
	return []string{"AWS_ACCESS_KEY_ID=" + *c.AccessKeyId, "AWS_SECRET_ACCESS_KEY=" + *c.SecretAccessKey, "AWS_SESSION_TOKEN=" + *c.SessionToken}
}
